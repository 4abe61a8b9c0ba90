"""Thresholds, calls and accuracy by the difficulty of the prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


def by_difficulty(
    difficulty: Sequence[float],
    nfe: Sequence[float],
    correct: Sequence[bool],
    *,
    gamma: Sequence[float] | None = None,
    compared: Mapping[str, tuple[Sequence[float], Sequence[bool]]] | None = None,
    samples: int = 1,
) -> dict[str, Any]:
    """Summarises completions by the task's difficulty; every sequence has one entry each, [B].

    Args:
      gamma: learned thresholds in nats, above 0; None if none is learned.
      compared: calls and correctness of others on the same prompts, by name.
      samples: completions per prompt.

    Returns:
      `levels`, sorted by difficulty: {"difficulty", "prompts", "nfe", "accuracy"}, with
      "gamma_p5", "gamma_p50", "gamma_p95" if γ is given, and "NAME_nfe", "NAME_accuracy" of each
      that it is compared with; `calls` and `log_gamma`, Pearson's correlation of the difficulty
      with the calls and with log γ, None if one of the two is constant or not given.
    """
    hard, nfe, correct = (np.asarray(x, np.float64) for x in (difficulty, nfe, correct))
    others = {
        f"{name}_{field}": np.asarray(values, np.float64)
        for name, both in (compared or {}).items()
        for field, values in zip(("nfe", "accuracy"), both)
    }
    gamma = None if gamma is None else np.asarray(gamma, np.float64)
    levels = []
    for level in np.unique(hard):
        rows = hard == level
        found = {
            "difficulty": float(level),
            "prompts": int(rows.sum()) // samples,
            "nfe": float(nfe[rows].mean()),
            "accuracy": float(correct[rows].mean()),
        }
        found |= {name: float(values[rows].mean()) for name, values in others.items()}
        if gamma is not None:
            spread = np.percentile(gamma[rows], (5, 50, 95)).tolist()
            found |= dict(zip(("gamma_p5", "gamma_p50", "gamma_p95"), spread))
        levels.append(found)
    return {
        "levels": levels,
        "log_gamma": None if gamma is None else _correlation(hard, np.log(gamma)),
        "calls": _correlation(hard, nfe),
    }


def mean_levels(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Averages the levels of several results of `by_difficulty`, each over the runs that have it.

    `difficulty`, the sort key, stays; `prompts` is averaged as well.
    """
    by_level: dict[float, list[Mapping[str, float]]] = {}
    for run in runs:
        for level in run["levels"]:
            by_level.setdefault(level["difficulty"], []).append(level)
    return [
        {
            name: sum(level[name] for level in levels) / len(levels)
            for name in levels[0]
            if all(name in level for level in levels)
        }
        for _, levels in sorted(by_level.items())
    ]


def _correlation(x: Float[np.ndarray, " B"], y: Float[np.ndarray, " B"]) -> float | None:
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    # A constant minus its mean is not exactly zero: the mean is rounded.
    return float(x @ y) / size if size > 1e-9 * len(x) else None
