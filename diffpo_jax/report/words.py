"""What a report says in words and tables: how it came out, and what it cost."""

import statistics
from collections.abc import Sequence
from typing import Any

from diffpo_jax.analysis import summary as summary_lib
from diffpo_jax.analysis.groups import Group
from diffpo_jax.analysis.runs import Run
from diffpo_jax.analysis.summary import points_text
from diffpo_jax.report import running
from diffpo_jax.report.tables import Table

_INTERVAL = "95 % interval"
_ONE_SEED = (
    "The interval is a bootstrap over test prompts. How another seed trains is not in it: one run "
    "shows nothing about that."
)


def of_one(run: Run) -> list[str]:
    """How a run came out, or how far it is and what is not there yet."""
    if run.summary:
        return [*summary_lib.sentences(run.summary), _ONE_SEED]
    return running.progress(run)


def in_numbers(run: Run) -> list[Table]:
    """The numbers of a finished run's sentences."""
    summary = run.summary
    if not summary:
        return []
    base, learned = summary["base"]["frontier"], summary["trained"]["learned"]
    rows: list[tuple[str, str]] = []
    if learned is not None:
        at = summary["base"]["learned_nfe_accuracy"]
        rows += [
            ("Trained, learned threshold: solved", _percent(learned["accuracy"])),
            ("Trained, learned threshold: calls a sequence", f"{learned['nfe']:.2f}"),
            (
                "Learned \N{GREEK SMALL LETTER GAMMA}, nats: 5 %, median, 95 % of prompts",
                ", ".join(f"{learned[f'gamma_p{q}']:.3g}" for q in (5, 50, 95)),
            ),
            (
                "Base at its nearest measured point"
                if at["extrapolated"]
                else "Base at equal calls",
                _percent(at["accuracy"]),
            ),
            (f"Gain at equal calls, points ({_INTERVAL})", _gain(summary["gains"]["learned"])),
        ]
    best = max(base, key=lambda point: point["accuracy"])
    rows.append(("Base at its best", f"{_percent(best['accuracy'])} in {best['nfe']:.2f} calls"))
    if summary["gains"]["mean"] is not None:
        mean = _gain(summary["gains"]["mean"])
        rows.append((f"Mean gain over the shared calls, points ({_INTERVAL})", mean))
    rows += [
        ("Test prompts", f"{summary['prompts']:,}"),
        ("Seed", str(run.seed)),
        ("Method, mode", f"{run.config['method']}, {run.config['mode']}"),
    ]
    return [Table("", ("", ""), rows)]


def compared(run: Run) -> list[Table]:
    """The frontier as a table: base and trained at each threshold, and the gain at equal calls."""
    if not run.summary:
        return []
    dial = "\N{GREEK SMALL LETTER GAMMA} (nats)"
    dial = dial if run.summary["dial"] == "gamma" else run.summary["dial"]
    found = summary_lib.comparison(run.summary)
    rows = []
    for one in found:
        base = (_percent(one.base["accuracy"]), f"{one.base['nfe']:.2f}") if one.base else ("", "")
        theirs = _percent(one.theirs) + ("*" if one.extrapolated else "")
        mine = (_percent(one.trained["accuracy"]), f"{one.trained['nfe']:.2f}")
        name = "learned" if one.dial is None else f"{one.dial:g}"
        rows.append((name, *base, *mine, theirs, _gain(one.gain)))
    gain = f"gain, points ({_INTERVAL})"
    columns = (dial, "base solves", "calls", "trained solves", "calls", "base at these calls", gain)
    note = f"* {summary_lib.EXTRAPOLATED}" if any(one.extrapolated for one in found) else ""
    return [Table("", columns, rows, note)]


def of_several(groups: Sequence[Group]) -> list[str]:
    """The mean gain of each group and its spread over seeds."""
    lines, found = [], {}
    for group in groups:
        gains = [(run.seed, gain) for run in group.runs if (gain := _learned_gain(run))]
        going = sum(run.summary is None for run in group.runs)
        waiting = f"{going} of {len(group.runs)} runs not finished" if going else ""
        if gains:
            found[group.label] = dict(gains)
            told = _over_seeds([gain for _, gain in gains])
            lines.append(f"{group.label}: {told}" + (f" {waiting}." if waiting else ""))
        elif waiting:
            lines.append(f"{group.label}: {waiting}.")
    if not found:
        return lines
    caution = "Intervals are bootstraps over test prompts and say nothing of the spread over seeds"
    caution += "; a difference between two settings is not tested here." if len(found) > 1 else "."
    return [*lines, *_on_shared_seeds(found), caution]


def _on_shared_seeds(found: dict[str, dict[int, Any]]) -> list[str]:
    """Where settings were run with other seeds, their means over those that all have."""
    seeds = [set(gains) for gains in found.values()]
    shared = sorted(set.intersection(*seeds))
    if all(own == seeds[0] for own in seeds):
        return []
    if not shared:
        return ["The settings have no seed in common: their means are hard to compare."]
    means = [
        f"{label} {points_text(statistics.fmean(gains[s]['gain'] for s in shared))}"
        for label, gains in found.items()
    ]
    return [
        f"The settings do not have the same seeds. Over those that all have "
        f"({', '.join(map(str, shared))}) the mean gains are: {'; '.join(means)} points."
    ]


def points(groups: Sequence[Group]) -> list[Table]:
    """Learned point, gain and calls of every run."""
    rows = []
    for group in groups:
        for run in group.runs:
            rows.append((group.label, run.name, run.seed, *_point(run)))
    columns = (
        "settings",
        "run",
        "seed",
        "solved",
        "calls",
        "base at these calls",
        f"gain, points ({_INTERVAL})",
        f"mean gain, points ({_INTERVAL})",
        "base at its best",
    )
    note = (
        "Solved and calls: at the learned threshold. Gain: there, over the base at equal calls; "
        "the mean gain is over the calls that both frontiers cover."
    )
    star = any(cell.endswith("*") for row in rows for cell in row[3:])
    note += f" * {summary_lib.EXTRAPOLATED}" if star else ""
    return [Table("", columns, rows, note)]


def cost(runs: Sequence[Run]) -> list[Table]:
    """Seconds by stage and denoiser calls by use; of a run that goes on, its steps so far."""
    rows = []
    for run in runs:
        if run.summary:
            seconds, calls = run.summary["wall_seconds"], run.summary["denoiser_calls"]
        else:
            seconds, calls = _seconds(run), {}
        told = [f"{name} {running.duration(value)}" for name, value in seconds.items()]
        made = [f"{name} {value:,.0f}" for name, value in calls.items()]
        rows.append((run.name, ", ".join(told), ", ".join(made)))
    return [Table("Time and denoiser calls", ("run", "time by stage", "calls by use"), rows)]


def _point(run: Run) -> tuple[str, ...]:
    summary = run.summary
    if not summary:
        return (f"step {run.rl[-1]['step'] if run.rl else 0}", "", "", "", "", "")
    learned, gains = summary["trained"]["learned"], summary["gains"]
    best = max(point["accuracy"] for point in summary["base"]["frontier"])
    mean = _gain(gains["mean"]) if gains["mean"] is not None else ""
    if learned is None:
        return ("nothing is learned", "", "", "", mean, _percent(best))
    at = summary["base"]["learned_nfe_accuracy"]
    theirs = _percent(at["accuracy"]) + ("*" if at["extrapolated"] else "")
    mine = (_percent(learned["accuracy"]), f"{learned['nfe']:.2f}")
    return (*mine, theirs, _gain(gains["learned"]), mean, _percent(best))


def _learned_gain(run: Run) -> dict[str, float] | None:
    return run.summary["gains"]["learned"] if run.summary else None


def _over_seeds(gains: Sequence[dict[str, float]]) -> str:
    values = [gain["gain"] for gain in gains]
    if len(values) == 1:
        return (
            f"{_gain(gains[0])} points at the learned threshold ({_INTERVAL}), one seed: "
            "nothing is known of the spread."
        )
    each = ", ".join(points_text(value) for value in values)
    clear = sum(gain["low"] > 0 for gain in gains)
    worse = sum(gain["high"] < 0 for gain in gains)
    told = f"mean gain at the learned threshold {points_text(statistics.fmean(values))} points"
    told += f" over {len(values)} seeds ({each}; standard deviation "
    told += f"{100 * statistics.stdev(values):.1f}). {clear} of {len(values)} intervals lie above 0"
    return told + (f", {worse} below." if worse else ".")


def _seconds(run: Run) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in run.metrics:
        found[row["stage"]] = found.get(row["stage"], 0.0) + row.get("time/seconds", 0.0)
    return found


def _gain(gain: dict[str, float]) -> str:
    value, low, high = (points_text(gain[name]) for name in ("gain", "low", "high"))
    return f"{value} ({low} to {high})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
