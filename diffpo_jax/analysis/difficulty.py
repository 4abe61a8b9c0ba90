"""Learned thresholds, calls and accuracy by the difficulty of the prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


def by_difficulty(
    difficulty: Sequence[float],
    gamma: Sequence[float],
    nfe: Sequence[float],
    correct: Sequence[bool],
    samples: int = 1,
) -> dict[str, Any]:
    """Summarises completions by the task's difficulty; every sequence has one entry each, [B].

    Args:
      gamma: thresholds in nats, above 0.
      samples: completions per prompt.

    Returns:
      `levels`, sorted by difficulty: {"difficulty", "prompts", "gamma_p5", "gamma_p50",
      "gamma_p95", "nfe", "accuracy"}; `log_gamma` and `calls`, Pearson's correlation of the
      difficulty with log γ and with the calls, None if one of the two is constant.
    """
    hard, gamma = np.asarray(difficulty, np.float64), np.asarray(gamma, np.float64)
    nfe, correct = np.asarray(nfe, np.float64), np.asarray(correct, np.float64)
    levels = []
    for level in np.unique(hard):
        rows = hard == level
        low, median, high = np.percentile(gamma[rows], (5, 50, 95)).tolist()
        levels.append(
            {
                "difficulty": float(level),
                "prompts": int(rows.sum()) // samples,
                "gamma_p5": low,
                "gamma_p50": median,
                "gamma_p95": high,
                "nfe": float(nfe[rows].mean()),
                "accuracy": float(correct[rows].mean()),
            }
        )
    return {
        "levels": levels,
        "log_gamma": _correlation(hard, np.log(gamma)),
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
        {name: sum(level[name] for level in levels) / len(levels) for name in levels[0]}
        for _, levels in sorted(by_level.items())
    ]


def _correlation(x: Float[np.ndarray, " B"], y: Float[np.ndarray, " B"]) -> float | None:
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    # A constant minus its mean is not exactly zero: the mean is rounded.
    return float(x @ y) / size if size > 1e-9 * len(x) else None
