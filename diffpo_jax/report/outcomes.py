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
from diffpo_jax.report.figures import GAMMA, Quantity
from diffpo_jax.report.picture import Picture

_GAMMAS = ("gamma_p50", "gamma_p5", "gamma_p95")
DIFFICULTY = (
    Quantity("difficulty_gamma", "Threshold", f"{GAMMA} (nats)", *_GAMMAS, log=True),
    Quantity("difficulty_calls", "NFE", "calls per sequence", "nfe"),
    Quantity("difficulty_accuracy", "Accuracy", "% solved", "accuracy", scale=100.0),
)
_LEVEL = ("difficulty", "prompts", *_GAMMAS, "nfe", "accuracy", "base_accuracy")


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
    axes.legend(frameon=False, loc="best", fontsize=9)
    figures.save(figure, path)


def plot_by_difficulty(by_difficulty: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Draws calls and accuracy against the difficulty of the prompt as a PNG.

    Learned thresholds are drawn too, with a band that holds 90 % of the prompts of a difficulty.
    Accuracy is drawn beside that of the base at its most accurate dial.
    """
    levels = by_difficulty["levels"]
    shown = [q for q in DIFFICULTY if any(q.is_in(level) for level in levels)]
    figure = figures.new(3.2 * len(shown), 3.2)
    for axes, quantity in zip(figure.subplots(1, len(shown)), shown):
        _draw_levels(axes, quantity, levels, by_difficulty.get("base_nfe"))
        axes.set_xlabel(by_difficulty.get("unit", "difficulty"))
        figures.quiet(axes, quantity.title)
    prompts = sum(level["prompts"] for level in levels)
    title = f"{prompts} test prompts at {_point_in_use(by_difficulty)}"
    figure.suptitle(title, fontsize=8.5, color=figures.GREY)
    figures.save(figure, path)


def _draw_levels(
    axes: Axes, quantity: Quantity, levels: Sequence[Mapping[str, Any]], base_nfe: float | None
) -> None:
    """Draws a quantity of a single run, and the base's accuracy beside the trained model's."""
    look = {"color": figures.TRAINED, "marker": "o"}
    compared = quantity.line == "accuracy" and all("base_accuracy" in level for level in levels)
    if compared:
        base = quantity._replace(line="base_accuracy")
        label = "base" if base_nfe is None else f"base, {base_nfe:.1f} calls"
        figures.draw_quantity(
            axes, base, levels, "difficulty", color=figures.BASE, marker="s", label=label
        )
        look["label"] = "trained"
    figures.draw_quantity(axes, quantity, levels, "difficulty", **look)
    if compared:
        axes.legend(frameon=False, fontsize=8)


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
    if run := only_run(groups):
        figures.draw_run_frontier(axes, run.summary)
        caption = (
            f"Accuracy against calls. Lines: fixed {_dial(run.summary)}, the number at each point. "
            "Star: the learned threshold. Bars: one standard error either way."
        )
    else:
        for group in groups:
            _draw_group(axes, group)
        caption = (
            "Accuracy against calls. Lines: means over the seeds at each threshold of the grid. "
            "Thin lines: single runs. Stars: means at learned thresholds. Dotted: the base model "
            "of the same colour."
        )
    axes.set(xlabel=figures.NFE, ylabel=figures.ACCURACY)
    picture.finish(figure, axes)
    summaries = [run.summary for group in groups for run in group.runs]
    dials = dict.fromkeys(dial_of(x, model) for x in summaries for model in ("base", "trained"))
    fields = ("model", *dials, "accuracy", "nfe", "tokens_per_call", "forced")
    rows = picture.run_rows(groups, fields, lambda run: frontier_rows(run.summary))
    return [Picture("frontier", figure, rows, "Frontier", caption)]


def _draw_group(axes: Axes, group: Group) -> None:
    look = figures.style(group.place)
    thin = {"color": look["color"], "marker": "", "linewidth": 0.7, "alpha": 0.35}
    for run in group.runs if len(group.runs) > 1 else ():
        figures.draw_frontier(axes, run.summary["trained"]["frontier"], **thin)
    base, trained = (comparison.mean_frontier(group.runs, m) for m in ("base", "trained"))
    figures.draw_frontier(axes, base, color=look["color"], marker="", linewidth=1, linestyle=":")
    figures.draw_frontier(axes, trained, label=group.label, markersize=4, **look)
    learned = [run.summary["trained"]["learned"] for run in group.runs]
    if all(learned):
        mean = {n: sum(p[n] for p in learned) / len(learned) for n in ("nfe", "accuracy")}
        figures.draw_star(axes, mean, color=look["color"])


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
                _draw_levels(axes, quantity, levels, found[0].get("base_nfe"))
            else:
                look = figures.style(group.place) | {"label": group.label}
                figures.draw_quantity(axes, quantity, levels, "difficulty", **look)
        units = dict.fromkeys(one.get("unit", "difficulty") for one in found)
        axes.set_xlabel(" or ".join(units))
        picture.finish(figure, axes)
        title = f"{GAMMA if quantity.log else quantity.title} by difficulty"
        caption = f"{title}, test prompts at {' or '.join(places)}."
        caption += " Median, with a band that holds 90 % of the prompts." if quantity.low else ""
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
        axes.bar(calls, right, color=figures.TRAINED, label="right")
        axes.bar(calls, wrong, bottom=right, color=figures.BASE, label="wrong")
        axes.set_ylabel("test answers")
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
