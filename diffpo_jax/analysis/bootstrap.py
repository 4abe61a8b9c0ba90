"""Estimates from per-prompt outcomes, with bootstrap intervals: gains at equal calls, pass@k."""

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diffpo_jax.analysis import frontier
from diffpo_jax.system import files


class Outcomes(NamedTuple):
    """Results of one point of a frontier for each prompt; every point has the same prompts."""

    correct: np.ndarray  # [N], share of the prompt's completions that are right
    nfe: np.ndarray  # [N], mean number of denoiser calls of the prompt's completions
    prompt: np.ndarray | None = None  # [N], equal for equal prompts; None if all differ


def write_outcomes(path: str | os.PathLike, outcomes: Mapping[str, Outcomes]) -> None:
    """Writes the outcomes of all points to one .npz file, atomically.

    Its arrays are `points` [P], `correct` and `nfe` [P, N] and `prompt` [N].
    """
    rows = list(outcomes.values())
    prompt = rows[0].prompt
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        points=np.array(list(outcomes)),
        correct=np.array([o.correct for o in rows], np.float32),
        nfe=np.array([o.nfe for o in rows], np.float32),
        prompt=np.arange(len(rows[0].correct)) if prompt is None else prompt,
    )
    files.write_atomic(path, buffer.getvalue())


def read_outcomes(path: str | os.PathLike) -> dict[str, Outcomes]:
    """Reads what `write_outcomes` wrote.

    Raises:
      OSError, ValueError: the file cannot be read.
      KeyError: an array is missing.
    """
    with np.load(path, allow_pickle=False) as data:
        rows = zip(data["points"].tolist(), data["correct"], data["nfe"])
        return {name: Outcomes(correct, nfe, data["prompt"]) for name, correct, nfe in rows}


def resample_weights(outcomes: Outcomes, resamples: int, seed: int) -> Float[np.ndarray, "R N"]:
    """Draws the weights of a bootstrap over prompts; each resample's weights sum to 1.

    Rows with the same prompt are drawn together, because they are (nearly) the same observation.
    """
    count = len(outcomes.correct)
    prompt = np.arange(count) if outcomes.prompt is None else outcomes.prompt
    _, cluster = np.unique(prompt, return_inverse=True)
    clusters = int(cluster.max()) + 1
    even = np.full(clusters, 1 / clusters)
    weights = np.random.default_rng(seed).multinomial(clusters, even, size=resamples)[:, cluster]
    return weights / weights.sum(axis=1, keepdims=True)


def intervals(
    numbers: Callable[[np.ndarray], Sequence[float]], outcomes: Outcomes, resamples: int, seed: int
) -> Float[np.ndarray, "2 numbers"]:
    """Returns the ends of the 95 % bootstrap intervals of numbers computed from prompt weights."""
    draws = [numbers(weights) for weights in resample_weights(outcomes, resamples, seed)]
    return np.percentile(draws, (2.5, 97.5), axis=0)


def weighted_points(
    outcomes: Sequence[Outcomes], weights: Float[np.ndarray, " N"]
) -> list[dict[str, float]]:
    """Returns the accuracy and calls of each point of a frontier under weights of the prompts."""
    correct = np.array([o.correct for o in outcomes], np.float64) @ weights
    nfe = np.array([o.nfe for o in outcomes], np.float64) @ weights
    return [{"accuracy": y, "nfe": x} for y, x in zip(correct.tolist(), nfe.tolist())]


def paired_gains(
    base: Sequence[Outcomes],
    trained: Sequence[Outcomes],
    learned: Outcomes | None,
    *,
    resamples: int = 2_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns by how much the trained model beats the base at equal calls, in shares of prompts.

    A gain is {"gain", "low", "high"}, with a 95 % bootstrap interval over prompts. The intervals
    are paired: a resample uses the same prompts for both models, and moves calls together with
    accuracies. They describe these two models, without the spread between training seeds.

    Args:
      base, trained: the points of both frontiers, in any order.
      learned: the trained model at its learned thresholds, or None.

    Returns:
      `grid`, the gains at the calls of each point of `trained`; `learned`, that at the calls of the
      learned point, or None; `mean`, that over the calls that both frontiers cover, or None.
    """
    rows, count = len(base[0].correct), len(base)
    points = [*base, *trained, *([learned] if learned is not None else [])]
    means = [{"accuracy": p.correct.mean(), "nfe": p.nfe.mean()} for p in points]
    shared = frontier.shared_range(means[:count], means[count : count + len(trained)])

    def gains(weights: Float[np.ndarray, " N"]) -> list[float]:
        curves = weighted_points(points, weights)
        theirs, ours = curves[:count], curves[count:]
        result = [p["accuracy"] - frontier.interpolate(theirs, p["nfe"])[0] for p in ours]
        if shared is not None:
            areas = [frontier.area_under(f, *shared) for f in (ours[: len(trained)], theirs)]
            result.append((areas[0] - areas[1]) / (shared[1] - shared[0]))
        return result

    low, high = intervals(gains, base[0], resamples, seed)
    result = [
        {"gain": g, "low": lo, "high": hi}
        for g, lo, hi in zip(gains(np.full(rows, 1 / rows)), low.tolist(), high.tolist())
    ]
    mean = result.pop() if shared is not None else None
    at_learned = result.pop() if learned is not None else None
    return {"grid": result, "learned": at_learned, "mean": mean}


def pass_at_k(verdicts: Sequence[Sequence[bool]]) -> dict[int, float]:
    """Returns the probability that one of k completions is right, for k = 1, 2, 4, ...

    k goes up to the smallest number of completions of a problem. With c of n completions right,
    the unbiased estimate is 1 - C(n - c, k) / C(n, k), averaged over problems (arXiv 2107.03374,
    equation 1). The result is empty if every problem has one completion: then pass@1 is accuracy.

    Args:
      verdicts: for each problem, whether each of its completions is right.
    """
    least = min(map(len, verdicts))
    if max(map(len, verdicts)) == 1:
        return {}
    counts = [(len(v), sum(v)) for v in verdicts]
    return {
        k: math.fsum(1 - math.comb(n - c, k) / math.comb(n, k) for n, c in counts) / len(counts)
        for k in (2**i for i in range(least.bit_length()))
    }
