"""Tables about runs: results, cost, configuration, and what they were made with."""

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from diffpo_jax.analysis import summary as summary_lib
from diffpo_jax.analysis.groups import Group, differing
from diffpo_jax.analysis.runs import Run, default_values
from diffpo_jax.analysis.summary import format_percent
from diffpo_jax.report import tables
from diffpo_jax.report.figures import GAMMA
from diffpo_jax.report.tables import Table
from diffpo_jax.report.words import INTERVAL, format_duration, format_gain

_HASH = 12  # characters of a commit that are shown


def results(run: Run) -> list[Table]:
    """Returns the numbers in the sentences about a finished run."""
    summary = run.summary
    if not summary:
        return []
    learned, gains = summary["trained"]["learned"], summary["gains"]
    rows: list[tuple[str, str]] = []
    if learned is not None:
        at = summary["base"]["learned_nfe_accuracy"]
        place = "at its nearest measured point" if at["extrapolated"] else "at equal calls"
        percentiles = ", ".join(f"{learned[f'gamma_p{q}']:.3g}" for q in (5, 50, 95))
        rows += [
            ("Trained, learned threshold: solved", format_percent(learned["accuracy"])),
            ("Trained, learned threshold: calls per sequence", f"{learned['nfe']:.2f}"),
            (f"Learned {GAMMA}, nats: 5 %, median, 95 % of prompts", percentiles),
            (f"Base {place}", format_percent(at["accuracy"])),
            (f"Gain at equal calls, points ({INTERVAL})", format_gain(gains["learned"])),
        ]
        for rule, gain in gains.get("rules", {}).items():
            title = f"Gain over the base under {rule} at equal calls, points ({INTERVAL})"
            rows.append((title, format_gain(gain["learned"])))
    best, calls = summary_lib.best_of_base(summary)
    solved = f"{format_percent(best)} in {calls:.2f} calls"
    mean = f"Mean gain over the shared calls, points ({INTERVAL})"
    rows += [
        ("Base at its best", solved),
        *([(mean, format_gain(gains["mean"]))] if gains["mean"] is not None else []),
        ("Test prompts", f"{summary['prompts']:,}"),
        ("Seed", str(run.seed)),
        ("Method, mode", f"{run.config['method']}, {run.config['mode']}"),
    ]
    return [Table("", ("", ""), rows)]


def frontier(run: Run) -> list[Table]:
    """Returns base and trained model at each threshold, and the gain at equal calls."""
    if not run.summary:
        return []
    dial = f"{GAMMA} (nats)" if run.summary["dial"] == "gamma" else run.summary["dial"]
    compared, metrics = summary_lib.comparison(run.summary), summary_lib.metrics_of(run.summary)
    rows = []
    for row in compared:
        name = "learned" if row.dial is None else f"{row.dial:g}"
        base, trained = (
            (format_percent(point["accuracy"]), f"{point['nfe']:.2f}") if point else ("", "")
            for point in (row.base, row.trained)
        )
        at_calls = format_percent(row.base_accuracy) + "*" * row.extrapolated
        means = [
            f"{point[summary_lib.METRIC + metric]:.3g}" if point else ""
            for metric in metrics
            for point in (row.base, row.trained)
        ]
        rows.append((name, *base, *trained, at_calls, format_gain(row.gain), *means))
    gain = f"gain, points ({INTERVAL})"
    columns = (dial, "base solves", "calls", "trained solves", "calls", "base at these calls", gain)
    if not any(row.base for row in compared):  # the base has another dial
        columns, rows = (dial, *columns[3:]), [(row[0], *row[3:]) for row in rows]
    columns += tuple(f"{model} {metric}" for metric in metrics for model in ("base", "trained"))
    note = f"* {summary_lib.EXTRAPOLATED}" if any(row.extrapolated for row in compared) else ""
    return [Table("", columns, rows, note)]


def evaluations(run: Run) -> list[Table]:
    """Returns a row for each model of each evaluation with other settings than the run's own."""
    rows = []
    for one in run.evaluations:
        changes = one.settings["changes"].items()
        different = "; ".join(f"{name}={_text(value)}" for name, value in changes)
        for model, points in one.points.items() or [(one.settings["model"], [])]:
            reached = [f"{format_percent(x['accuracy'])}@{x['nfe']:.2f}" for x in points]
            found = ", ".join(reached) or "not finished"
            rows.append((one.name, different or "none", model, one.prompts, found))
    columns = ("evaluation", "settings that differ", "model", "prompts", "accuracy@calls")
    return [Table("", columns, rows)] if rows else []


def learned_points(groups: Sequence[Group]) -> list[Table]:
    """Returns the learned point, gain and calls of every run."""
    rows = [
        {"settings": group.label, "run": run.name, "seed": run.seed} | _learned_point(run)
        for group in groups
        for run in group.runs
    ]
    note = (
        "Solved and calls: at the learned threshold, or at the default price. Gain: over the base "
        "at the same calls; the mean gain is over the calls that both frontiers cover."
    )
    if any(row["base at these calls"].endswith("*") for row in rows):
        note += f" * {summary_lib.EXTRAPOLATED}"
    return [tables.from_rows("", rows, note)]


def _learned_point(run: Run) -> dict[str, str]:
    gain, mean_gain = f"gain, points ({INTERVAL})", f"mean gain, points ({INTERVAL})"
    names = ("solved", "calls", "base at these calls", gain, mean_gain, "base at its best")
    row = dict.fromkeys(names, "")
    summary = run.summary
    if not summary:
        return row | {"solved": f"step {run.rl[-1]['step'] if run.rl else 0}"}
    row["base at its best"] = format_percent(summary_lib.best_of_base(summary)[0])
    if summary["gains"]["mean"] is not None:
        row[mean_gain] = format_gain(summary["gains"]["mean"])
    found = summary_lib.in_use(summary)
    if found is None:
        return row | {"solved": "no learned threshold"}
    return row | {
        "solved": format_percent(found.trained["accuracy"]),
        "calls": f"{found.trained['nfe']:.2f}",
        "base at these calls": format_percent(found.base_accuracy) + "*" * found.extrapolated,
        gain: format_gain(found.gain),
    }


def cost(runs: Sequence[Run]) -> list[Table]:
    """Returns seconds by stage and denoiser calls by use; so far, for an unfinished run."""
    rows = []
    for run in runs:
        summary = run.summary or {"wall_seconds": Counter(), "denoiser_calls": {}}
        seconds, calls = summary["wall_seconds"], summary["denoiser_calls"]
        for row in () if run.summary else run.metrics:
            seconds[row["stage"]] += row.get("time/seconds", 0.0)
        times = [f"{name} {format_duration(value)}" for name, value in seconds.items()]
        counts = [f"{name} {value:,.0f}" for name, value in calls.items()]
        rows.append((run.name, ", ".join(times), ", ".join(counts)))
    return [Table("Time and denoiser calls", ("run", "time by stage", "calls by use"), rows)]


def configuration(runs: Sequence[Run]) -> list[Table]:
    """Returns every field of every run: those that differ between runs or from a default first."""
    names = differing([run.config for run in runs])
    differences = []
    if names:
        rows = [(run.name, *(_text(run.config.get(name)) for name in names)) for run in runs]
        started = all(run.config["init_from"] for run in runs)
        unused = started and any(name.startswith("pretrain.") for name in names)
        note = "These runs began from another run's base model, so pretrain was not used."
        differences.append(Table("What differs", ("run", *names), rows, note if unused else ""))
    first = runs[0].config
    shared = {name: value for name, value in first.items() if name not in names}
    defaults = default_values(first)
    changed = [name for name in shared if name not in defaults or shared[name] != defaults[name]]
    rows = [(name, _text(shared[name]), _text(defaults.get(name))) for name in changed]
    rest = [(name, _text(value)) for name, value in shared.items() if name not in changed]
    title = "Set for the run" if len(runs) == 1 else "Set for all runs"
    note = "Defaults are those of the run's method and commit rule."
    return [
        *differences,
        Table(title, ("field", "value", "default"), rows, note),
        Table(f"At their defaults: {len(rest)} fields", ("field", "value"), rest, folded=True),
    ]


def lineage(runs: Sequence[Run]) -> tuple[list[str], list[Table]]:
    """Returns code, packages, machine, command and base model, and warnings if they differ."""
    rows, commands = [], []
    for run in runs:
        info, versions = run.info, run.info.get("versions", {})
        machine = [info.get("machine"), f"{info['cores']} cores" if "cores" in info else None]
        row = {
            "run": run.name,
            "commit": str(info.get("commit", ""))[:_HASH] + "+" * _is_changed(info),
            "Python": info.get("python", ""),
            "packages": ", ".join(f"{name} {number}" for name, number in versions.items()),
            "machine": ", ".join(str(part) for part in machine if part),
            "mesh": info.get("mesh", ""),
            "base model from": run.config["init_from"] or "its own pretraining",
        }
        rows.append(row)
        if info.get("command"):
            words = [shlex.quote(str(word)) for word in info["command"]]
            commands.append((run.name, " \\\n  ".join(words)))
    warnings = []
    if len({run.info.get("commit") for run in runs}) > 1:
        warnings.append("The runs were made by different commits.")
    if any(_is_changed(run.info) for run in runs):
        warnings.append("A + after a commit: files had changes that were not committed.")
    if absent := [run.name for run in runs if not run.info]:
        warnings.append(f"Without run_info.json: {', '.join(absent)}.")
    result = [tables.from_rows("", rows)]
    if commands:
        result.append(Table("Command lines", ("run", "command"), commands, folded=len(runs) > 1))
    return warnings, result


def _is_changed(info: dict[str, Any]) -> bool:
    return str(info.get("commit", "")).endswith("+")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "(none)"
    if value == "":
        return "(empty)"
    return "none" if value is None else str(value)
