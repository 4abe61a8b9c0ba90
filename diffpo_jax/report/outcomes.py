"""Figures of what a run ends with: the frontier, difficulty, and how many calls answers took."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from diffpo_jax.analysis import comparison, difficulty
from diffpo_jax.analysis.groups import Group, keep_runs, only_run
from diffpo_jax.analysis.summary import dial_of, frontier_rows
from diffpo_jax.report import figures, picture
from diffpo_jax.report.figures import GAMMA, Point, Quantity
from diffpo_jax.report.picture import Picture

_GAMMAS = ("gamma_p50", "gamma_p5", "gamma_p95")
DIFFICULTY = (
    Quantity("difficulty_gamma", "Threshold", f"{GAMMA} (nats)", *_GAMMAS, log=True),
    Quantity("difficulty_calls", "NFE", "calls per sequence", "nfe"),
    Quantity("difficulty_accuracy", "Accuracy", "% solved", "accuracy", scale=100.0),
)
_COMPARED = ("base", "fixed")  # what else the levels hold: "base_nfe", "base_accuracy", ...
_FIELDS = ("nfe", "accuracy")
_LEVEL = ("difficulty", "prompts", *_GAMMAS, *_FIELDS)
_LEVEL += tuple(f"{name}_{field}" for name in _COMPARED for field in _FIELDS)

_COMPARED_CAPTION = (
    " Beside it: the base at its most accurate dial, and the most accurate fixed dial of about as "
    "many calls, which shows what choosing by prompt adds."
)


def plot_frontier(summary: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Draws accuracy (percent) against denoiser calls per sequence, base and trained, as a PNG.

    Bars are one binomial standard error either way. The numbers at the points are their dials,
    thresholds in nats; the star is the trained model at the thresholds it chooses itself.
    """
    figure = figures.new(7.2, 4.8)
    axes = figure.add_subplot()
    figures.draw_run_frontier(axes, summary)
    axes.set(xlabel=figures.NFE, ylabel=figures.ACCURACY)
    bars = f"Bars: ±1 standard error, {summary['prompts']} prompts."
    figures.quiet(axes, note=f"Numbers at points: {_dial(summary)}. {bars}")
    figures.draw_legend(axes, fontsize=9)
    figures.save(figure, path)


def plot_by_difficulty(by_difficulty: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Draws calls and accuracy against the difficulty of the prompt as a PNG.

    Learned thresholds are drawn too, with a band that holds 90 % of the prompts of a difficulty.
    Beside them are the base at its most accurate dial, and the best fixed dial of about as many
    calls, as far as they were measured.
    """
    levels = by_difficulty["levels"]
    shown = [q for q in DIFFICULTY if any(q.is_in(level) for level in levels)]
    figure = figures.new(3.2 * len(shown), 3.5)
    for axes, quantity in zip(figure.subplots(1, len(shown)), shown):
        _draw_levels(axes, quantity, by_difficulty, levels)
        axes.set_xlabel(_difficulty(by_difficulty))
        figures.quiet(axes, quantity.title)
    artists, names = figures.legend_entries(figure)
    named = dict(zip(names, artists))  # the panels have the same lines
    look = {"loc": "outside lower center", "ncols": len(named), "frameon": False, "fontsize": 8}
    figure.legend(named.values(), named.keys(), **look)
    prompts = sum(level["prompts"] for level in levels)
    title = f"{prompts} test prompts at {_point_in_use(by_difficulty)}"
    figure.suptitle(title, fontsize=8.5, color=figures.GREY)
    figures.save(figure, path)


def _draw_levels(
    axes: Axes,
    quantity: Quantity,
    found: Mapping[str, Any],
    levels: Sequence[Mapping[str, Any]],
) -> None:
    """Draws a quantity of a single run by level, beside the base and the best fixed dial."""
    learned = found.get("place", "learned") == "learned"
    for name in _COMPARED:
        field = f"{name}_{quantity.line}"
        if all(field in level for level in levels):
            look = _compared_look(found, name)
            figures.draw_quantity(axes, quantity._replace(line=field), levels, "difficulty", **look)
    fixed = found.get("fixed", {})
    if quantity.low and fixed.get("dial") == "gamma":
        look = _compared_look(found, "fixed") | {"marker": ""}
        figures.draw_level(axes, fixed["value"], **look)
    own = {"color": figures.LEARNED, "marker": "D", "label": f"trained, learned {GAMMA}"}
    if not learned:
        own = {"color": figures.TRAINED, "marker": "o", "label": f"trained, {found['place']}"}
    figures.draw_quantity(axes, quantity, levels, "difficulty", **own)


def _compared_look(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """How what the trained model is compared with is drawn."""
    if name == "base":
        calls = f", {found['base_nfe']:.1f} calls" if "base_nfe" in found else ""
        return {"color": figures.BASE, "marker": "s", "label": f"base at its best{calls}"}
    fixed = found["fixed"]
    dial = GAMMA if fixed["dial"] == "gamma" else fixed["dial"]
    label = f"{fixed['model']}, fixed {dial} {fixed['value']:g}, {fixed['nfe']:.1f} calls"
    if fixed["model"] == "base":
        return {"color": figures.GREY, "marker": "^", "label": label}
    return {"color": figures.TRAINED, "marker": "o", "label": label}


def _difficulty(by_difficulty: Mapping[str, Any]) -> str:
    """The label of the axis: what counts as difficulty."""
    unit = by_difficulty.get("unit", "")
    return f"difficulty ({unit})" if unit else "difficulty"


def _point_in_use(by_difficulty: Mapping[str, Any]) -> str:
    """Where on its frontier the trained model is looked at closely, in words."""
    place = by_difficulty.get("place", "learned")
    return "the learned threshold" if place == "learned" else f"the {place}"


def frontiers(groups: Sequence[Group]) -> list[Picture]:
    """Returns a figure of accuracy against calls: base, trained, learned points."""
    groups = keep_runs(groups, lambda run: run.summary)
    if not groups:
        return []
    figure, axes = picture.new()
    sizes = (picture.LARGE, picture.SIZE)
    if run := only_run(groups):
        figures.draw_run_frontier(axes, run.summary)
        learned = run.summary["trained"]["learned"] is not None
        caption = (
            f"The number at a point is its dial: {_dial(run.summary)}. "
            f"{'The star is the learned threshold. ' * learned}"
            "Bars are one standard error either way. Up and left is better."
        )
    else:
        runs = [run for group in groups for run in group.runs]
        for base in comparison.base_groups(runs):
            points = comparison.mean_frontier(base.runs, "base")
            look = figures.base_style(base.place)
            figures.draw_frontier(axes, points, label=base.label, markersize=4, **look)
        for group in groups:
            _draw_group(axes, group)
        caption = (
            "Lines are means over the seeds at each dial of the grid, thin lines single runs, "
            "stars means at learned thresholds. Up and left is better."
        )
    axes.set(xlabel=figures.NFE, ylabel=figures.ACCURACY)
    picture.finish(figure, axes, picture.LARGE)
    summaries = [run.summary for group in groups for run in group.runs]
    dials = dict.fromkeys(dial_of(x, model) for x in summaries for model in ("base", "trained"))
    fields = ("model", *dials, "accuracy", "nfe", "tokens_per_call", "forced")
    rows = picture.run_rows(groups, fields, lambda run: frontier_rows(run.summary))
    return [Picture("frontier", figure, rows, "Accuracy against denoiser calls", caption, sizes)]


def _draw_group(axes: Axes, group: Group) -> None:
    look = figures.style(group.place)
    thin = {"color": look["color"], "marker": "", "linewidth": 0.7, "alpha": 0.35}
    for run in group.runs if len(group.runs) > 1 else ():
        points = run.summary["trained"]["frontier"]
        figures.draw_frontier(axes, points, label=run.name, in_legend=False, **thin)
    trained = comparison.mean_frontier(group.runs, "trained")
    figures.draw_frontier(axes, trained, label=group.label, markersize=4, **look)
    learned = [run.summary["trained"]["learned"] for run in group.runs]
    if all(learned):
        mean = {n: sum(p[n] for p in learned) / len(learned) for n in ("nfe", "accuracy")}
        label = f"{group.label}, learned {GAMMA}"
        figures.draw_star(axes, mean, color=look["color"], label=label, in_legend=False)


def _dial(summary: Mapping[str, Any]) -> str:
    """The numbers at the points of both frontiers, in words."""
    dials = dict.fromkeys(dial_of(summary, model) for model in ("trained", "base"))
    return " or ".join(f"{GAMMA} in nats" if dial == "gamma" else dial for dial in dials)


def by_difficulty(groups: Sequence[Group]) -> list[Picture]:
    """Returns figures of γ, calls and accuracy by difficulty, at the points in use."""
    groups = keep_runs(groups, lambda run: run.summary and run.summary.get("by_difficulty"))
    found = [run.summary["by_difficulty"] for group in groups for run in group.runs]
    rows = picture.run_rows(groups, _LEVEL, lambda run: run.summary["by_difficulty"]["levels"])
    places = dict.fromkeys(map(_point_in_use, found))
    single = only_run(groups)
    pictures = []
    for quantity in DIFFICULTY:
        if not any(quantity.is_in(level) for one in found for level in one["levels"]):
            continue
        figure, axes = picture.new()
        for group in groups:
            levels = difficulty.mean_levels([run.summary["by_difficulty"] for run in group.runs])
            if single:
                _draw_levels(axes, quantity, found[0], levels)
            else:
                look = figures.style(group.place) | {"label": group.label}
                figures.draw_quantity(axes, quantity, levels, "difficulty", **look)
        units = dict.fromkeys(map(_difficulty, found))
        axes.set_xlabel(" or ".join(units))
        picture.finish(figure, axes)
        title = f"{GAMMA if quantity.log else quantity.title} by difficulty"
        caption = f"{title}, test prompts at {' or '.join(places)}."
        caption += " Median, with a band that holds 90 % of the prompts." if quantity.low else ""
        caption += _COMPARED_CAPTION if single and found[0].get("fixed") else ""
        caption += "" if single else " Means over the seeds."
        pictures.append(Picture(quantity.name, figure, rows, title, caption))
    return pictures


def calls_histogram(groups: Sequence[Group]) -> list[Picture]:
    """Returns a figure of how many test answers took how many calls, right and wrong."""
    groups = keep_runs(groups, lambda run: run.samples_name == "test" and run.samples)
    if not groups:
        return []
    figure, axes = picture.new()
    if run := only_run(groups):
        counts = _count(run.samples)
        calls, right, wrong = ([row[n] for row in counts] for n in ("calls", "right", "wrong"))
        tops = [a + b for a, b in zip(right, wrong)]
        for name, heights, bottom, top, colour in (
            ("right", right, 0, right, figures.TRAINED),
            ("wrong", wrong, right, tops, figures.BASE),
        ):
            bars = axes.bar(calls, heights, bottom=bottom, color=colour)
            points = (Point(x, y, height=h) for x, y, h in zip(calls, top, heights))
            figures.add_series(axes, bars, name, points)
        axes.set_ylabel("count (test answers)")
        caption = "Test answers by the denoiser calls they took, right and wrong."
    else:
        for group in groups:
            counts = _count([row for run in group.runs for row in run.samples])
            totals = {row["calls"]: row["right"] + row["wrong"] for row in counts}
            shares = [100 * count / sum(totals.values()) for count in totals.values()]
            look = figures.style(group.place) | {"label": group.label}
            figures.draw_curve(axes, list(totals), shares, **look)
        axes.set_ylabel("% of test answers")
        caption = "Share of test answers by the denoiser calls they took, over all seeds."
    axes.set_xlabel("denoiser calls")
    picture.finish(figure, axes)
    fields = ("calls", "right", "wrong")
    rows = picture.run_rows(groups, fields, lambda run: _count(run.samples))
    return [Picture("calls_histogram", figure, rows, "Calls of test answers", caption)]


def _count(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, int]]:
    counts = Counter((row["nfe"], bool(row["correct"])) for row in samples)
    return [
        {"calls": c, "right": counts[c, True], "wrong": counts[c, False]}
        for c in sorted({c for c, _ in counts})
    ]
