"""Estimates from the outcomes of many prompts, and how sure they are."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffpo_jax.analysis import frontier
from diffpo_jax.system import files


class Outcomes(NamedTuple):
    """One point of a frontier, prompt by prompt; the same prompts at every point.

    Attributes:
      correct: [N], share of the prompt's completions that are right.
      nfe: [N], mean denoiser calls of a completion of it.
      prompt: [N], a number for each different prompt; None: no two rows have the same.
    """

    correct: np.ndarray
    nfe: np.ndarray
    prompt: np.ndarray | None = None


def write_outcomes(path: str | os.PathLike, outcomes: Mapping[str, Outcomes]) -> None:
    """Outcomes by point as one .npz.  Atomic.

    `points` [P], `correct` and `nfe` [P, N], `prompt` [N].
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
    """The inverse of `write_outcomes`.  Raises OSError and ValueError as numpy does."""
    with np.load(path, allow_pickle=False) as data:
        rows = zip(data["points"].tolist(), data["correct"], data["nfe"])
        return {name: Outcomes(correct, nfe, data["prompt"]) for name, correct, nfe in rows}


def resampled(of: Outcomes, resamples: int, seed: int) -> np.ndarray:
    """Weights of a bootstrap over prompts, [resamples N], each row of them summing to 1.

    Rows of one prompt are drawn together: they are one and the same observation, or nearly so.
    """
    count = len(of.correct)
    prompt = np.arange(count) if of.prompt is None else of.prompt
    _, cluster = np.unique(prompt, return_inverse=True)
    clusters = int(cluster.max()) + 1
    even = np.full(clusters, 1 / clusters)
    weights = np.random.default_rng(seed).multinomial(clusters, even, size=resamples)[:, cluster]
    return weights / weights.sum(axis=1, keepdims=True)


def paired_gains(
    base: Sequence[Outcomes],
    trained: Sequence[Outcomes],
    learned: Outcomes | None,
    *,
    resamples: int = 2_000,
    seed: int = 0,
) -> dict[str, Any]:
    """What the trained model solves more than the base at equal calls, in shares of the prompts.

    Intervals hold 95 % of a bootstrap over prompts.  It is paired: a resample takes the same
    prompts of both models and moves calls with accuracies.  They say how sure the numbers are for
    these two models; how another seed trains is not in them.

    Args:
      base, trained: the points of both frontiers, in any order.
      learned: the trained model at its own thresholds.
      resamples: of the bootstrap.

    Returns:
      `grid`, a gain for each point of `trained` at its calls; `learned` likewise, or None; `mean`,
      over the calls that both frontiers cover, None where there are none.  A gain is
      {"gain", "low", "high"}.
    """
    rows = len(base[0].correct)
    count, points = len(base), [*base, *trained, *([learned] if learned is not None else [])]
    correct = np.array([p.correct for p in points], np.float64)
    nfe = np.array([p.nfe for p in points], np.float64)

    def gains(weights: np.ndarray) -> list[float]:
        at = [
            {"accuracy": y, "nfe": x}
            for y, x in zip((correct @ weights).tolist(), (nfe @ weights).tolist())
        ]
        theirs, ours = at[:count], at[count:]
        found = [p["accuracy"] - frontier.interpolate(theirs, p["nfe"])[0] for p in ours]
        if shared is not None:
            curve = ours[: len(trained)]
            areas = [frontier.area_under(f, *shared) for f in (curve, theirs)]
            found.append((areas[0] - areas[1]) / (shared[1] - shared[0]))
        return found

    means = [{"accuracy": p.correct.mean(), "nfe": p.nfe.mean()} for p in points]
    shared = frontier.shared_range(means[:count], means[count : count + len(trained)])
    even = np.full(rows, 1 / rows)
    draws = resampled(base[0], resamples, seed)
    low, high = np.percentile([gains(w) for w in draws], (2.5, 97.5), axis=0)
    told = [
        {"gain": g, "low": lo, "high": hi}
        for g, lo, hi in zip(gains(even), low.tolist(), high.tolist())
    ]
    mean = told.pop() if shared is not None else None
    own = told.pop() if learned is not None else None
    return {"grid": told, "learned": own, "mean": mean}


def pass_at_k(verdicts: Sequence[Sequence[bool]]) -> dict[int, float]:
    """The chance that one of k completions is right, for k = 1, 2, 4 ... while all problems have k.

    With c of n completions right it is estimated without bias as 1 - C(n - c, k) / C(n, k), and
    averaged over problems (arXiv 2107.03374, equation 1).  Nothing for one completion a problem,
    where it is the accuracy.

    Args:
      verdicts: of each problem, whether its completions are right.
    """
    least = min(map(len, verdicts))
    if max(map(len, verdicts)) == 1:
        return {}
    counts = [(len(v), sum(v)) for v in verdicts]
    return {
        k: math.fsum(1 - math.comb(n - c, k) / math.comb(n, k) for n, c in counts) / len(counts)
        for k in (2**i for i in range(least.bit_length()))
    }
