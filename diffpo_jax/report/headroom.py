"""The table and the picture of the study headroom: what choosing a threshold could gain."""

from collections.abc import Mapping
from typing import Any

from diffpo_jax.analysis.frontier import Frontier, interpolate
from diffpo_jax.analysis.summary import format_percent, format_points
from diffpo_jax.report import figures, tables
from diffpo_jax.report.figures import GAMMA
from diffpo_jax.report.picture import Picture
from diffpo_jax.report.tables import Table


def draw(result: Mapping[str, Any]) -> Picture:
    """Draws what `studies.headroom.run` returns: accuracy against calls, a line for each choice.

    The CSV has a line for each point: choice, price or threshold, accuracy, nfe.
    """
    figure = figures.new(7.2, 4.8)
    axes = figure.add_subplot()
    for place, (name, points) in enumerate(_lines(result).items()):
        figures.draw_frontier(axes, points, label=name, **figures.style(place))
    axes.set(xlabel=figures.NFE, ylabel=figures.ACCURACY)
    settings = result["settings"]
    note = (
        f"{settings['test_prompts']} test prompts; the choice is learned from "
        f"{settings['training_prompts']} training prompts."
    )
    figures.quiet(axes, note=note)
    figures.draw_legend(axes)
    rows = [{"choice": name} | dict(p) for name, points in _lines(result).items() for p in points]
    return Picture("headroom", figure, rows)


def _lines(result: Mapping[str, Any]) -> dict[str, Frontier]:
    settings = result["settings"]
    trained = f"after RL, mode {settings['mode']}, rule {settings['rule']}"
    return {
        f"base, one dial for all, {rule}": points for rule, points in result["base"].items()
    } | {
        f"base, {GAMMA} by prompt, predicted": result["predicted"],
        f"base, {GAMMA} by prompt, in hindsight": result["hindsight"],
        trained: result["trained"],
    }


def as_text(result: Mapping[str, Any]) -> str:
    """Returns the choices at equal calls, and what choosing by prompt gains on average."""
    base, rule = result["base"], result["rule"]
    rows = []
    for point in sorted(result["predicted"], key=lambda p: p["nfe"]):
        calls = point["nfe"]
        best = max((_at(points, calls) for points in base.values()), key=lambda x: x or 0.0)
        found = [_at(base[rule], calls), best, point["accuracy"]]
        found += [_at(result[name], calls) for name in ("hindsight", "trained")]
        rows.append([f"{calls:.2f}", *map(_percent, found)])
    header = (
        "calls",
        f"one {GAMMA} for all",
        "best fixed rule",
        f"{GAMMA} by prompt, predicted",
        "in hindsight",
        "after RL",
    )
    note = f"-: not measured at these calls. One {GAMMA} is that of the rule {rule}."
    if gain := result["gain_predicted"]:
        value, low, high = (format_points(gain[name]) for name in ("gain", "low", "high"))
        note += (
            f" On average {GAMMA} by prompt, predicted, gains {value} points over one for all "
            f"({low} to {high})."
        )
    return tables.as_text(Table("% of test prompts solved at equal calls", header, rows, note))


def _at(points: Frontier, calls: float) -> float | None:
    """The accuracy at a number of calls; None where it was not measured."""
    accuracy, extrapolated = interpolate(points, calls)
    return None if extrapolated else accuracy


def _percent(share: float | None) -> str:
    return "-" if share is None else format_percent(share)
