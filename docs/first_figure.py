"""Draws one half of the first figure of README.md: accuracy against calls, before and after RL.

    python docs/first_figure.py --title="4x4 Sudoku" --out=docs/figures/frontier-sudoku.png \\
        --runs=runs/s3,runs/s4,runs/s5 --controls=runs/sc3

Runs are finished runs of one task, a seed each; controls are runs of a base that was trained on for
as many calls (configs/studies/control.py).  Lines are means over the seeds, bands their range.  The
base counts at every number of calls under the best of the rules that it was evaluated with.
"""

import json
import pathlib
import sys

import numpy as np
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from diffpo_jax.analysis.frontier import interpolate
from diffpo_jax.analysis.summary import base_curves, default_place
from diffpo_jax.report import figures

_OUT = flags.DEFINE_string("out", None, "File to write.", required=True)
_TITLE = flags.DEFINE_string("title", "", "Name of the task, over the figure.")
_RUNS = flags.DEFINE_list("runs", None, "Workdirs of runs, a seed each.", required=True)
_CONTROLS = flags.DEFINE_list("controls", [], "Workdirs of controls.")


def main(_: list[str]) -> None:
    figure = figures.new(5.0, 4.0)
    axes = figure.subplots()
    draw(axes, *([_summary(path) for path in paths] for paths in (_RUNS.value, _CONTROLS.value)))
    figures.quiet(axes, _TITLE.value)
    axes.set(xlabel=figures.NFE, ylabel=figures.ACCURACY)
    axes.legend(frameon=False, fontsize=8, loc="best")
    figures.save(figure, _OUT.value)


def draw(axes, runs: list[dict], controls: list[dict]) -> None:
    """One task: base, control, and the trained models with their default prices marked."""
    most = max(
        point["nfe"] for run in runs for curve in base_curves(run).values() for point in curve
    )
    calls = np.geomspace(1.0, most, 200)
    _draw_seeds(
        axes, calls, [best_base(run, calls) for run in runs], "base, its best rule", figures.BASE
    )
    if controls:
        found = [best_base(run, calls) for run in controls]
        axes.plot(
            calls,
            100 * np.mean(found, axis=0),
            color=figures.GREY,
            linestyle="--",
            linewidth=1.2,
            label="base trained on, as many calls",
        )
    curves = [run["trained"]["frontier"] for run in runs]
    low = max(min(point["nfe"] for point in curve) for curve in curves)
    # A seed whose head never takes so many calls stays as accurate as with its most.
    high = max(point["nfe"] for curve in curves for point in curve)
    inside = np.geomspace(low, high, 100)
    trained = [[interpolate(curve, x)[0] for x in inside] for curve in curves]
    _draw_seeds(axes, inside, trained, "after RL, any price of a call", figures.TRAINED)
    for run, curve in zip(runs, curves):
        point = curve[default_place(run)]
        figures.draw_star(
            axes,
            point,
            color=figures.LEARNED,
            label="after RL, default price" if run is runs[0] else None,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")


def best_base(run: dict, calls: np.ndarray) -> list[float]:
    """The base's accuracy at these calls, under the rule that is best there.

    Of a rule that was not measured at so many calls its most accurate point with fewer counts.
    """
    curves, result = base_curves(run).values(), []
    for x in calls:
        found = [interpolate(curve, x) for curve in curves]
        inside = [accuracy for accuracy, outside in found if not outside]
        fewer = [p["accuracy"] for curve in curves for p in curve if p["nfe"] <= x]
        result.append(max(inside + fewer, default=np.nan))
    return result


def _draw_seeds(axes, calls, curves, label: str, colour: str) -> None:
    curves = 100 * np.asarray(curves)
    axes.fill_between(
        calls, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0
    )
    axes.plot(calls, curves.mean(axis=0), color=colour, linewidth=1.8, label=label)


def _summary(path: str) -> dict:
    return json.loads((pathlib.Path(path) / "report/summary.json").read_text())


if __name__ == "__main__":
    app.run(main)
