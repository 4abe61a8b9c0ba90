"""The pictures of a study, each as PNG and SVG with its numbers as CSV beside it."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffpo_jax.analysis import comparison
from diffpo_jax.analysis.comparison import Finished
from diffpo_jax.report import figures
from diffpo_jax.report.tables import csv_text, file_part
from diffpo_jax.system.files import write_atomic

Rows = list[dict[str, Any]]


def write(directory: pathlib.Path, runs: Sequence[Finished]) -> list[str]:
    """Writes final, frontier-TASK and learning-TASK; returns the names of the SVGs."""
    names = [_write(directory, "final", *final(runs))]
    for task in dict.fromkeys(run.task for run in runs):
        of_task = [run for run in runs if run.task == task]
        part = file_part(task)
        names.append(_write(directory, f"frontier-{part}", *frontiers(of_task, task)))
        names.append(_write(directory, f"learning-{part}", *learning(of_task, task)))
    return names


def final(runs: Sequence[Finished]) -> tuple[Figure, Rows]:
    """Accuracy of every arm on every task, seed by seed, its calls beside it (figure 1)."""
    tasks = list(dict.fromkeys(run.task for run in runs))
    arms = list(comparison.by_arm(runs))
    height = 1.2 + 0.32 * (len(arms) + 1) * len(tasks)
    figure = Figure(figsize=(7.2, height), dpi=150, layout="constrained")
    rows: Rows = []
    for i, task in enumerate(tasks):
        axes = figure.add_subplot(len(tasks), 1, i + 1)
        of_task = comparison.by_arm([run for run in runs if run.task == task])
        labels = [arm for arm in arms if arm in of_task]
        for y, arm in enumerate(labels):
            points = [comparison.chosen(run) for run in of_task[arm]]
            colour = figures.style(arms.index(arm))["color"]
            axes.plot([100 * p["accuracy"] for p in points], [y] * len(points), "o", color=colour)
            mean = comparison.spread([100 * p["accuracy"] for p in points]).mean
            axes.plot([mean], [y], "|", color=colour, markersize=16)
            calls = comparison.spread([p["nfe"] for p in points]).mean
            axes.annotate(
                f"{mean:.1f} % in {calls:.1f} calls",
                (1.01, y),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
            )
            rows += [
                {"task": task, "arm": arm, "seed": run.seed, "accuracy": p["accuracy"]}
                | {"nfe": p["nfe"], "tokens_per_call": p["tokens_per_call"]}
                for run, p in zip(of_task[arm], points)
            ]
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_title(task, fontsize=10, loc="left")
        figures.quiet(axes)
        axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
        axes.set_xlabel("Accuracy (% of test prompts), one dot a seed, bar their mean")
    return figure, rows


def frontiers(runs: Sequence[Finished], task: str) -> tuple[Figure, Rows]:
    """Accuracy against calls of one task: each arm's frontier and learned points (figure 4)."""
    figure = Figure(figsize=(7.2, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    rows: Rows = []
    bases, arms = comparison.bases(runs), comparison.by_arm(runs)
    curves = [("base", *item) for item in bases.items()]
    curves += [("trained", *item) for item in arms.items()]
    uneven = len({len(of_arm) for of_arm in arms.values()}) > 1
    for i, (which, label, of_curve) in enumerate(curves):
        k = i if which == "base" else i - len(bases)
        look = figures.style(k)
        if which == "base":
            look = {"color": figures.GREY, "marker": "x+1234"[k % 6], "linestyle": "--"}
        points = _mean_points(of_curve, which)
        axes.plot(
            [p["nfe"] for p in points],
            [100 * p["accuracy"] for p in points],
            **look,
            markersize=4.5,
            linewidth=1.4,
            # Seeds differ more than arms do: means of others are no comparison.
            label=f"{label} ({len(of_curve)} seeds)" if uneven else label,
        )
        rows += [{"arm": label, "point": "fixed"} | p for p in points]
        if which == "trained":
            rows += _draw_learned(axes, of_curve, label, look["color"])
    axes.set_xlabel("NFE (denoiser calls per sequence)")
    axes.set_ylabel("Accuracy (% of test prompts solved)")
    axes.set_title(
        f"{task}: means over seeds; stars: learned thresholds, one a seed",
        fontsize=8.5,
        color=figures.GREY,
        loc="left",
    )
    figures.quiet(axes)
    axes.legend(frameon=False, fontsize=8.5)
    return figure, rows


def learning(runs: Sequence[Finished], task: str) -> tuple[Figure, Rows]:
    """Reward and held-out accuracy and calls by step and by denoiser calls spent (figure 3)."""
    panels = (
        ("reward", "Training reward", 1.0),
        ("eval/accuracy", "Validation accuracy (%)", 100.0),
        ("eval/nfe", "Validation NFE", 1.0),
    )
    figure = Figure(figsize=(8.4, 2.5 * len(panels)), dpi=150, layout="constrained")
    grid = figure.subplots(len(panels), 2, squeeze=False, sharey="row")
    rows: Rows = []
    for i, (name, title, scale) in enumerate(panels):
        for k, (arm, of_arm) in enumerate(comparison.by_arm(runs).items()):
            look = figures.style(k)
            steps, spent, values = comparison.curve_by_step(of_arm, name)
            rows += [
                {"arm": arm, "metric": name, "step": s, "denoiser_calls": c}
                | {"mean": v.mean, "deviation": v.deviation, "seeds": len(v.values)}
                for s, c, v in zip(steps, spent, values)
            ]
            for axes, x in zip(grid[i], (steps, spent)):
                mean = [scale * v.mean for v in values]
                few = len(x) < 40
                axes.plot(
                    x,
                    mean,
                    **look | ({} if few else {"marker": None}),
                    markersize=3.5,
                    linewidth=1.3,
                    label=arm,
                )
                low = [scale * (v.mean - v.deviation) for v in values]
                high = [scale * (v.mean + v.deviation) for v in values]
                axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
        for axes, label in zip(grid[i], ("RL step", "denoiser calls of rollouts and updates")):
            figures.quiet(axes)
            axes.set_xlabel(label)
        grid[i][0].set_title(f"{title}, {task}", fontsize=10, loc="left")
    if grid[0][0].get_legend_handles_labels()[0]:
        grid[0][0].legend(frameon=False, fontsize=8)
    return figure, rows


def _mean_points(runs: Sequence[Finished], which: str) -> Rows:
    """Means over runs of a frontier's points with the same dial, by calls."""
    by_dial: dict[float, list[Mapping[str, float]]] = {}
    for run in runs:
        for point in run.summary[which]["frontier"]:
            by_dial.setdefault(point[run.summary["dial"]], []).append(point)
    rows = [
        {"dial": dial}
        | {name: comparison.spread([p[name] for p in points]).mean for name in ("nfe", "accuracy")}
        | {"runs": len(points)}
        for dial, points in by_dial.items()
    ]
    return sorted(rows, key=lambda p: p["nfe"])


def _draw_learned(axes: Axes, runs: Sequence[Finished], label: str, colour: str) -> Rows:
    rows: Rows = []
    for run in runs:
        points = [(1.0, run.summary["trained"]["learned"])] + [
            (p["factor"], p) for p in run.summary.get("scaled", ())
        ]
        for factor, point in points:
            if point is None:
                continue
            axes.plot(
                [point["nfe"]],
                [100 * point["accuracy"]],
                marker="*" if factor == 1 else "+",
                markersize=12 if factor == 1 else 7,
                color=colour,
                markeredgecolor="white" if factor == 1 else colour,
                linestyle="none",
                zorder=5,
            )
            rows.append(
                {"arm": label, "point": f"learned x {factor:g}", "dial": run.seed, "runs": 1}
                | {name: point[name] for name in ("nfe", "accuracy")}
            )
    return rows


def _write(directory: pathlib.Path, name: str, figure: Figure, rows: Rows) -> str:
    for kind in ("png", "svg"):
        figures.save(figure, directory / f"{name}.{kind}", kind)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    write_atomic(directory / f"{name}.csv", csv_text(columns, rows))
    return f"{name}.svg"
