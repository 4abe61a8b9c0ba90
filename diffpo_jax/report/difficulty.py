"""What a learned threshold does where prompts are harder."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffpo_jax.report.figures import GREY, LEARNED, log_scale, quiet, save


def by_difficulty(
    difficulty: Sequence[float],
    gamma: Sequence[float],
    nfe: Sequence[float],
    correct: Sequence[bool],
    samples: int = 1,
) -> dict[str, Any]:
    """Thresholds, calls and accuracy by the task's difficulty; arguments are of completions, [B].

    Args:
      gamma: nats, above 0.
      samples: completions of each prompt.

    Returns:
      `levels`, by rising difficulty: {"difficulty", "prompts", "gamma_p5", "gamma_p50",
      "gamma_p95", "nfe", "accuracy"}; and Pearson's correlation of the difficulty with log γ and
      with calls, `log_gamma` and `calls`, None where one of the two never differs.
    """
    hard, gamma = np.asarray(difficulty, np.float64), np.asarray(gamma, np.float64)
    nfe, correct = np.asarray(nfe, np.float64), np.asarray(correct, np.float64)
    levels = []
    for level in np.unique(hard):
        of = hard == level
        low, median, high = np.percentile(gamma[of], (5, 50, 95)).tolist()
        levels.append(
            {
                "difficulty": float(level),
                "prompts": int(of.sum()) // samples,
                "gamma_p5": low,
                "gamma_p50": median,
                "gamma_p95": high,
                "nfe": float(nfe[of].mean()),
                "accuracy": float(correct[of].mean()),
            }
        )
    return {
        "levels": levels,
        "log_gamma": _correlation(hard, np.log(gamma)),
        "calls": _correlation(hard, nfe),
    }


def plot_by_difficulty(found: Mapping[str, Any], path: str | os.PathLike) -> None:
    """γ, calls and accuracy against the difficulty, from `by_difficulty`, as a PNG.

    The band of γ holds 90 % of the prompts of a difficulty.
    """
    levels = found["levels"]
    x = [level["difficulty"] for level in levels]
    figure = Figure(figsize=(9.6, 3.2), dpi=150, layout="constrained")
    threshold, calls, accuracy = figure.subplots(1, 3)
    band = ([level[name] for level in levels] for name in ("gamma_p5", "gamma_p95"))
    threshold.fill_between(x, *band, color=LEARNED, alpha=0.2, linewidth=0)
    panels = (
        (threshold, "gamma_p50", 1.0, "Threshold", "\N{GREEK SMALL LETTER GAMMA} (nats)"),
        (calls, "nfe", 1.0, "NFE", "calls per sequence"),
        (accuracy, "accuracy", 100.0, "Accuracy", "% solved"),
    )
    for axes, name, scale, title, label in panels:
        y = [scale * level[name] for level in levels]
        axes.plot(x, y, color=LEARNED, marker="o", markersize=4, linewidth=1.5)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_ylabel(label)
        axes.set_xlabel("difficulty")
        quiet(axes)
    span = max(level["gamma_p95"] for level in levels) / min(level["gamma_p5"] for level in levels)
    log_scale(threshold, span)
    prompts = sum(level["prompts"] for level in levels)
    figure.suptitle(f"{prompts} test prompts at the learned threshold", fontsize=8.5, color=GREY)
    save(figure, path)


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    # Rounding of a mean leaves something of a constant.
    return float(x @ y) / size if size > 1e-9 * len(x) else None
