"""The figures of a study, each as PNG and SVG with its numbers as CSV."""

import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from diffpo_jax.analysis import comparison
from diffpo_jax.analysis.groups import Group, by_task
from diffpo_jax.report import curves, figures, picture
from diffpo_jax.report.figures import Point
from diffpo_jax.report.picture import Picture
from diffpo_jax.report.tables import file_part


def write(directory: pathlib.Path, groups: Sequence[Group]) -> list[str]:
    """Writes final, frontier-TASK and learning-TASK of finished arms; returns the SVGs' names."""
    pictures = [final(groups)]
    for task, arms in by_task(groups).items():
        pictures += [frontiers(arms, task), learning(arms, task)]
    for one in pictures:
        picture.write(one, directory)
    return [f"{one.name}.svg" for one in pictures]


def final(groups: Sequence[Group]) -> Picture:
    """Draws the accuracy of every arm on every task, one dot per seed, and its calls (figure 1)."""
    tasks = by_task(groups)
    height = 0.4 + (0.8 + 0.32 * len(groups)) * len(tasks)
    figure = figures.new(picture.LARGE[0], height)
    rows = []
    for i, (task, arms) in enumerate(tasks.items()):
        axes = figure.add_subplot(len(tasks), 1, i + 1)
        for y, arm in enumerate(arms):
            points = [comparison.reported_point(run) for run in arm.runs]
            accuracies = [100 * p["accuracy"] for p in points]
            colour = figures.style(arm.place)["color"]
            (dots,) = axes.plot(accuracies, [y] * len(points), "o", color=colour)
            notes = [f"seed {r.seed}, {p['nfe']:.2f} calls" for r, p in zip(arm.runs, points)]
            places = map(Point, accuracies, [y] * len(points), notes)
            figures.add_series(axes, dots, points=places)
            mean = comparison.spread(accuracies).mean
            axes.plot([mean], [y], "|", color=colour, markersize=16)
            calls = comparison.spread([p["nfe"] for p in points]).mean
            place = {"xy": (1.01, y), "xycoords": ("axes fraction", "data"), "va": "center"}
            axes.annotate(f"{mean:.1f} % in {calls:.1f} calls", fontsize=8, **place)
            rows += [
                {"task": task, "arm": arm.label, "seed": run.seed}
                | {name: point[name] for name in ("accuracy", "nfe", "tokens_per_call")}
                for run, point in zip(arm.runs, points)
            ]
        axes.set_yticks(range(len(arms)), [arm.label for arm in arms])
        axes.set_ylim(len(arms) - 0.4, -0.6)
        figures.quiet(axes, task)
        axes.grid(axis="x", color=figures.GRID, linewidth=0.8)
        axes.set_xlabel("Accuracy (% of test prompts)")
    caption = (
        "Accuracy on test prompts at the end, at the learned threshold or, without one, at the "
        "best fixed dial. A dot is a seed, the bar the mean over the seeds, with its denoiser "
        "calls."
    )
    sizes = ((picture.LARGE[0], height), (picture.SIZE[0], height))
    return Picture("final", figure, rows, "Final accuracy", caption, sizes)


def frontiers(arms: Sequence[Group], task: str) -> Picture:
    """Draws accuracy against calls on one task: mean frontiers and learned points (figure 4)."""
    figure = figures.new(7.2, 4.8)
    axes = figure.add_subplot()
    rows: list[dict[str, Any]] = []
    bases = comparison.base_groups([run for arm in arms for run in arm.runs])
    uneven = len({len(arm.runs) for arm in arms}) > 1
    for model, groups in (("base", bases), ("trained", arms)):
        for group in groups:
            look = figures.style(group.place)
            if model == "base":
                look = figures.base_style(group.place)
            # Seeds differ more than arms do, so means over different seeds say how many.
            seeds = f"{len(group.runs)} seed{'s' * (len(group.runs) > 1)}"
            label = f"{group.label} ({seeds})" if uneven else group.label
            points = comparison.mean_frontier(group.runs, model)
            figures.draw_frontier(axes, points, label=label, **look)
            rows += [{"arm": group.label, "point": "fixed"} | point for point in points]
            if model == "trained":
                rows += _draw_learned(axes, group, look["color"])
    axes.set(xlabel=figures.NFE, ylabel=figures.ACCURACY)
    figures.quiet(axes, note=f"{task}: means over seeds; a star is a seed's learned threshold")
    figures.draw_legend(axes)
    return Picture(f"frontier-{file_part(task)}", figure, rows)


def _draw_learned(axes: Axes, arm: Group, colour: str) -> list[dict[str, Any]]:
    """Draws each run's learned point as a star, and multiples of its threshold as crosses."""
    rows = []
    cross = {"marker": "+", "markersize": 7, "markeredgecolor": colour}
    for run in arm.runs:
        learned = run.summary["trained"]["learned"]
        points = [(1.0, learned)] if learned is not None else []
        points += [(point["factor"], point) for point in run.summary.get("scaled", ())]
        for factor, point in points:
            figures.draw_star(axes, point, color=colour, **cross if factor != 1 else {})
            rows.append(
                {"arm": arm.label, "point": f"learned x {factor:g}", "seed": run.seed, "runs": 1}
                | {name: point[name] for name in ("nfe", "accuracy")}
            )
    return rows


def learning(arms: Sequence[Group], task: str) -> Picture:
    """Draws reward, validation accuracy and calls by step and by calls spent (figure 3)."""
    quantities = (curves.LEARNING[0], *curves.VALIDATION)
    figure = figures.new(8.4, 2.5 * len(quantities))
    grid = figure.subplots(len(quantities), 2, squeeze=False, sharey="row")
    notes = []
    for (by_step, by_calls), quantity in zip(grid, quantities):
        notes.append(curves.draw_groups(by_step, arms, quantity))
        curves.draw_groups(by_calls, arms, quantity, against_calls=True)
        figures.quiet(by_step, f"{quantity.title}, {task}")
        figures.quiet(by_calls)
        by_step.set_xlabel("RL step")
        curves.label_cost(by_calls)
    figure.suptitle(notes[0], fontsize=8.5, color=figures.GREY)
    figures.draw_legend(grid[0][0], fontsize=8)
    rows = [
        {"arm": arm.label, "metric": quantity.line, "step": step, "denoiser_calls": calls}
        | {"mean": value.mean, "deviation": value.deviation, "seeds": len(value.values)}
        for quantity in quantities
        for arm in arms
        for step, calls, value in zip(*comparison.curve_by_step(arm.runs, quantity.line))
    ]
    return Picture(f"learning-{file_part(task)}", figure, rows)
