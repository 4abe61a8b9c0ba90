"""What a report says in sentences: how runs came out, or how far they are."""

import datetime
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from diffpo_jax.analysis import comparison
from diffpo_jax.analysis.groups import Group
from diffpo_jax.analysis.runs import Run
from diffpo_jax.analysis.summary import format_percent, format_points, in_use, sentences

INTERVAL = "95 % interval"
_ONE_SEED = (
    "The interval is a bootstrap interval over test prompts. It does not include the spread over "
    "training seeds, which one run cannot show."
)
_IN_USE = "at the learned threshold or the default price"
_RECENT = 20  # steps that the remaining time is estimated from


def describe_run(run: Run) -> list[str]:
    """Says how a run came out, or how far it is and what is still missing."""
    return [*sentences(run.summary), _ONE_SEED] if run.summary else _progress(run)


def describe_groups(groups: Sequence[Group]) -> list[str]:
    """Gives the mean gain of each group and its spread over seeds."""
    lines, gains = [], {}
    for group in groups:
        finished = [run for run in group.runs if run.summary]
        used = {run.seed: in_use(run.summary) for run in finished}
        found = {seed: compared.gain for seed, compared in used.items() if compared}
        parts = []
        if found:
            gains[group.label] = found
            parts.append(_describe_gains(list(found.values())))
        if len(finished) < len(group.runs):
            going = len(group.runs) - len(finished)
            parts.append(f"{going} of {len(group.runs)} runs are not finished.")
        if parts:
            lines.append(f"{group.label}: {' '.join(parts)}")
    if not gains:
        return lines
    caution = "Intervals are bootstrap intervals over test prompts, without the spread over seeds"
    caution += "; no difference between settings is tested here." if len(gains) > 1 else "."
    return [*lines, *_compare_shared_seeds(gains), caution]


def _describe_gains(gains: Sequence[Mapping[str, float]]) -> str:
    if len(gains) == 1:
        return (
            f"{format_gain(gains[0])} points {_IN_USE} ({INTERVAL}), one seed: the spread over "
            "seeds is not known."
        )
    mean, deviation, values = comparison.spread([gain["gain"] for gain in gains])
    clear = sum(gain["low"] > 0 for gain in gains)
    worse = sum(gain["high"] < 0 for gain in gains)
    below = f", {worse} below" if worse else ""
    return (
        f"mean gain {_IN_USE} {format_points(mean)} points over {len(values)} seeds "
        f"({', '.join(map(format_points, values))}; standard deviation {100 * deviation:.1f}). "
        f"{clear} of {len(values)} intervals lie above 0{below}."
    )


def _compare_shared_seeds(gains: Mapping[str, Mapping[int, Any]]) -> list[str]:
    """Compares settings that were run with different seeds over the seeds that all have."""
    seeds = [set(group) for group in gains.values()]
    shared = sorted(set.intersection(*seeds))
    if all(own == seeds[0] for own in seeds):
        return []
    if not shared:
        return ["The settings have no seed in common, so their means are hard to compare."]
    means = [
        f"{label} {format_points(statistics.fmean(group[s]['gain'] for s in shared))}"
        for label, group in gains.items()
    ]
    return [
        f"The settings do not have the same seeds. Over those that all have "
        f"({', '.join(map(str, shared))}), the mean gains are: {'; '.join(means)} points."
    ]


def format_gain(gain: Mapping[str, float]) -> str:
    """Formats a gain in points with its interval: "+8.1 (+6.0 to +10.0)"."""
    value, low, high = (format_points(gain[name]) for name in ("gain", "low", "high"))
    return f"{value} ({low} to {high})"


def format_duration(seconds: float) -> str:
    """Formats seconds as seconds, minutes or hours, whichever reads best."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def _progress(run: Run) -> list[str]:
    """Says how far a run without a summary is."""
    lines = []
    for stage, name in {"pretrain": "Base model", "rl": "RL"}.items():
        rows = [row for row in run.metrics if row["stage"] == stage]
        total = run.config[f"{stage}.steps"]
        if rows:
            last = max(row["step"] for row in rows)
            lines.append(f"{name}: step {last} of {total}.{_time_left(rows, total - last)}")
    if not lines:
        lines = ["Nothing has been logged yet."]
    if run.written is not None:
        at = datetime.datetime.fromtimestamp(run.written, datetime.UTC)
        lines.append(f"The last line of metrics.jsonl was written at {at:%Y-%m-%d %H:%M} UTC.")
    return [
        *lines,
        *_latest_numbers(run),
        "There is no summary: the run is still going, or was stopped. Frontiers, the learned "
        "point, the gain over the base, calls by difficulty and test answers come at its end.",
    ]


def _latest_numbers(run: Run) -> list[str]:
    """Gives the latest numbers of training, and the first and latest of validation."""
    lines = []
    trained = [row for row in run.rl if "reward" in row]
    if trained:
        row = trained[-1]
        numbers = [f"reward {row['reward']:.3f}"]
        numbers += [f"{format_percent(row['accuracy'])} solved"] if "accuracy" in row else []
        numbers += [f"{row['nfe']:.2f} calls"] if "nfe" in row else []
        lines.append(f"Rollouts of step {row['step']}: {', '.join(numbers)}.")
    validated = [row for row in run.rl if "eval/accuracy" in row]
    if validated:
        numbers = [
            f"{format_percent(row['eval/accuracy'])} in {row['eval/nfe']:.2f} calls at step "
            f"{row['step']}"
            for row in validated[:: max(len(validated) - 1, 1)]
        ]
        lines.append(f"Validation prompts solved: {' and '.join(numbers)}.")
    return lines


def _time_left(rows: Sequence[dict[str, Any]], steps: int) -> str:
    recent = [row["time/seconds"] for row in rows[-_RECENT:] if "time/seconds" in row]
    if steps <= 0 or not recent or len(rows) < 2:
        return ""
    apart = (rows[-1]["step"] - rows[-len(recent) - 1 :][0]["step"]) / len(recent)
    seconds = steps / max(apart, 1) * statistics.fmean(recent)
    return f" At the pace of the last steps, {format_duration(seconds)} are left."
