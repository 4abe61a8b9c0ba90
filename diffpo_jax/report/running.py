"""What a report says of a run that has not ended: how far it is, and what is not there yet."""

import datetime
import statistics
from collections.abc import Sequence
from typing import Any

from diffpo_jax.analysis.runs import Run

_RECENT = 20  # steps that the time left is estimated from


def progress(run: Run) -> list[str]:
    """How far a run without a summary is."""
    lines = []
    stages = {"pretrain": "Base model", "rl": "RL"}
    for stage, name in stages.items():
        rows = [row for row in run.metrics if row["stage"] == stage]
        total = run.config[f"{stage}.steps"]
        if not rows:
            continue
        last = max(row["step"] for row in rows)
        lines.append(f"{name}: step {last} of {total}. {_left(rows, total - last)}".strip())
    if not lines:
        lines = ["Nothing has been logged yet."]
    if run.written is not None:
        at = datetime.datetime.fromtimestamp(run.written, datetime.UTC)
        lines.append(f"The last line of metrics.jsonl was written at {at:%Y-%m-%d %H:%M} UTC.")
    lines += _so_far(run)
    return [
        *lines,
        "There is no summary: the run is still going, or was stopped. Frontiers, the learned "
        "point, the gain over the base, calls by difficulty and test answers come at its end.",
    ]


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def _so_far(run: Run) -> list[str]:
    """The latest numbers of training and of validation."""
    lines = []
    trained = [row for row in run.rl if "reward" in row]
    if trained:
        row = trained[-1]
        told = [f"reward {row['reward']:.3f}"]
        if "accuracy" in row:
            told.append(f"{_percent(row['accuracy'])} solved")
        if "nfe" in row:
            told.append(f"{row['nfe']:.2f} calls")
        lines.append(f"Rollouts of step {row['step']}: {', '.join(told)}.")
    checked = [row for row in run.rl if "eval/accuracy" in row]
    if checked:
        first, last = checked[0], checked[-1]
        told = " and ".join(
            f"{_percent(row['eval/accuracy'])} in {row['eval/nfe']:.2f} calls at step {row['step']}"
            for row in ([first] if first is last else [first, last])
        )
        lines.append(f"Validation prompts solved: {told}.")
    return lines


def _left(rows: Sequence[dict[str, Any]], steps: int) -> str:
    recent = [row["time/seconds"] for row in rows[-_RECENT:] if "time/seconds" in row]
    if steps <= 0 or not recent or len(rows) < 2:
        return ""
    apart = (rows[-1]["step"] - rows[-len(recent) - 1 :][0]["step"]) / len(recent)
    seconds = steps / max(apart, 1) * statistics.fmean(recent)
    return f"At the pace of the last steps {duration(seconds)} are left."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
