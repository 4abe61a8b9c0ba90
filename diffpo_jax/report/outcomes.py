"""Figures of what a run ends with: the frontier, difficulty, and how many calls prompts took."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from diffpo_jax.analysis.groups import Group
from diffpo_jax.analysis.runs import Run
from diffpo_jax.report import figures, picture
from diffpo_jax.report.picture import Picture
from diffpo_jax.report.write import frontier_rows

_STAR = {"marker": "*", "markersize": 13, "markeredgecolor": "white", "linestyle": "none"}
_GAMMA = "\N{GREEK SMALL LETTER GAMMA}"
_LEVELS = (
    ("difficulty_gamma", f"{_GAMMA} by difficulty", f"{_GAMMA} (nats)", "gamma_p50", 1.0),
    ("difficulty_calls", "NFE by difficulty", "calls per sequence", "nfe", 1.0),
    ("difficulty_accuracy", "Accuracy by difficulty", "% solved", "accuracy", 100.0),
)
_LEVEL = ("difficulty", "prompts", "gamma_p5", "gamma_p50", "gamma_p95", "nfe", "accuracy")


def frontiers(groups: Sequence[Group]) -> list[Picture]:
    """Accuracy against calls: base, trained, learned point."""
    groups = _finished(groups)
    runs = [run for group in groups for run in group.runs]
    if not runs:
        return []
    figure, axes = picture.new()
    if len(runs) == 1:
        figures.draw_frontier(axes, runs[0].summary)
        says = (
            f"Accuracy against calls at fixed {figures.dial_text(runs[0].summary['dial'])}, the "
            "number beside each point, and where it is learned (star). Bars: one standard error "
            "either way."
        )
    else:
        _draw_frontiers(axes, groups)
        says = (
            "Accuracy against calls. A line is the mean over the seeds at each threshold of the "
            "grid, thin lines are the runs, a star is the mean at learned thresholds, dotted is "
            "the base of the same colour."
        )
    axes.set_xlabel("NFE (denoiser calls per sequence)")
    axes.set_ylabel("% of test prompts solved")
    picture.finish(figure, axes)
    rows = [
        {"run": run.name, "seed": run.seed} | row
        for run in runs
        for row in frontier_rows(run.summary)
    ]
    dials = dict.fromkeys(run.summary["dial"] for run in runs)
    columns = ("run", "seed", "model", *dials, "accuracy", "nfe", "tokens_per_call", "forced")
    return [Picture("frontier", "Frontier", says, figure, columns, rows)]


def by_difficulty(groups: Sequence[Group]) -> list[Picture]:
    """γ, calls and accuracy at the learned threshold against the task's own difficulty."""
    found = [
        Group(group.label, [run for run in group.runs if run.summary.get("by_difficulty")])
        for group in _finished(groups)
    ]
    if not any(group.runs for group in found):
        return []
    rows = [
        {"run": run.name, "seed": run.seed} | level
        for group in found
        for run in group.runs
        for level in run.summary["by_difficulty"]["levels"]
    ]
    alone = len({row["run"] for row in rows}) == 1
    pictures = []
    for name, title, unit, field, scale in _LEVELS:
        figure, axes = picture.new()
        for i, group in _filled(found):
            levels = _levels(group)
            x = sorted(levels)
            look = figures.style(i) | ({"color": figures.LEARNED} if alone else {})
            if field == "gamma_p50":
                band = [[_mean(levels[d], end) for d in x] for end in ("gamma_p5", "gamma_p95")]
                axes.fill_between(x, *band, color=look["color"], alpha=0.18, linewidth=0)
            y = [scale * _mean(levels[d], field) for d in x]
            label = None if alone else group.label
            axes.plot(x, y, markersize=4, linewidth=1.4, label=label, **look)
        if field == "gamma_p50":
            ends = [row[end] for row in rows for end in ("gamma_p5", "gamma_p95")]
            figures.log_scale(axes, max(ends) / min(ends))
        axes.set_xlabel("difficulty of the prompt")
        axes.set_ylabel(unit)
        picture.finish(figure, axes)
        says = f"{title}, test prompts at the learned threshold."
        says += " Median, and a band with 90 % of the prompts." if field == "gamma_p50" else ""
        says += "" if alone else " Means over the seeds."
        pictures.append(Picture(name, title, says, figure, ("run", "seed", *_LEVEL), rows))
    return pictures


def calls(groups: Sequence[Group]) -> list[Picture]:
    """How many prompts of the test split took how many calls, right and wrong."""
    found = [
        Group(group.label, [run for run in group.runs if run.samples_of == "test" and run.samples])
        for group in groups
    ]
    runs = [run for group in found for run in group.runs]
    if not runs:
        return []
    figure, axes = picture.new()
    if len(runs) == 1:
        counted = _counted(runs[0].samples)
        x = [row["calls"] for row in counted]
        right = [row["right"] for row in counted]
        wrong = [row["wrong"] for row in counted]
        axes.bar(x, right, color=figures.TRAINED, label="right")
        axes.bar(x, wrong, bottom=right, color=figures.BASE, label="wrong")
        axes.set_ylabel("test answers")
        says = "Test answers by the denoiser calls they took, right and wrong."
    else:
        for i, group in _filled(found):
            counts = Counter(row["nfe"] for run in group.runs for row in run.samples)
            x, total = sorted(counts), sum(counts.values())
            y = [100 * counts[c] / total for c in x]
            axes.plot(x, y, markersize=4, linewidth=1.4, label=group.label, **figures.style(i))
        axes.set_ylabel("% of test answers")
        says = "Share of test answers by the denoiser calls they took, over all seeds."
    axes.set_xlabel("denoiser calls")
    picture.finish(figure, axes)
    rows = [
        {"run": run.name, "seed": run.seed} | row for run in runs for row in _counted(run.samples)
    ]
    columns = ("run", "seed", "calls", "right", "wrong")
    return [Picture("calls_histogram", "Calls of test answers", says, figure, columns, rows)]


def _draw_frontiers(axes: Axes, groups: Sequence[Group]) -> None:
    for i, group in _filled(groups):
        look = figures.style(i)
        colour = look["color"]
        for run in group.runs if len(group.runs) > 1 else ():
            points = _by_calls(run.summary["trained"]["frontier"])
            axes.plot(*points, color=colour, linewidth=0.7, alpha=0.35)
        axes.plot(*_mean_frontier(group.runs, "base"), color=colour, linewidth=1, linestyle=":")
        means = _mean_frontier(group.runs, "trained")
        axes.plot(*means, linewidth=1.5, markersize=4, label=group.label, **look)
        learned = [run.summary["trained"]["learned"] for run in group.runs]
        if all(learned):
            star = ([_mean(learned, "nfe")], [100 * _mean(learned, "accuracy")])
            axes.plot(*star, color=colour, zorder=5, **_STAR)


def _mean_frontier(runs: Sequence[Run], model: str) -> tuple[list[float], list[float]]:
    """Mean calls and accuracies (percent) at the dials that all runs have, by rising calls."""
    grids = [
        {point[run.summary["dial"]]: point for point in run.summary[model]["frontier"]}
        for run in runs
    ]
    shared = set.intersection(*(set(grid) for grid in grids))
    points = [[grid[dial] for grid in grids] for dial in shared]
    return _by_calls([{n: _mean(of, n) for n in ("nfe", "accuracy")} for of in points])


def _by_calls(points: Sequence[Mapping[str, float]]) -> tuple[list[float], list[float]]:
    ordered = sorted(points, key=lambda p: (p["nfe"], p["accuracy"]))
    return [p["nfe"] for p in ordered], [100 * p["accuracy"] for p in ordered]


def _levels(group: Group) -> dict[float, list[dict[str, float]]]:
    """The runs' levels by difficulty."""
    found: dict[float, list[dict[str, float]]] = {}
    for run in group.runs:
        for level in run.summary["by_difficulty"]["levels"]:
            found.setdefault(level["difficulty"], []).append(level)
    return found


def _counted(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, int]]:
    counts = Counter((row["nfe"], bool(row["correct"])) for row in samples)
    return [
        {"calls": c, "right": counts[c, True], "wrong": counts[c, False]}
        for c in sorted({c for c, _ in counts})
    ]


def _finished(groups: Sequence[Group]) -> list[Group]:
    """The groups with those of their runs that have ended; an empty one keeps its place."""
    return [Group(g.label, [run for run in g.runs if run.summary]) for g in groups]


def _filled(groups: Sequence[Group]) -> list[tuple[int, Group]]:
    """The groups that have runs, each with its place, which decides its colour."""
    return [(i, group) for i, group in enumerate(groups) if group.runs]


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
