"""The two pictures of a report: the frontiers, and how training went."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from diffpo_jax.system.files import write_atomic

# From the palette of Okabe and Ito, which colour-blind readers can tell apart; markers differ
# too, for print in grey.
# Of the same palette, for as many lines as there are.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":")  # of the first six, the next six, and so on
BASE, TRAINED, LEARNED = "#D55E00", "#0072B2", "#009E73"
GREY, GRID = "#555555", "#E5E5E5"
_GAMMA = "\N{GREEK SMALL LETTER GAMMA}"


def plot_frontier(summary: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Accuracy (percent) against denoiser calls a sequence, base and trained, as a PNG.

    Bars are one binomial standard error either way.  Points carry their threshold in nats;
    the star is the trained model at the thresholds it chooses itself.
    """
    figure = Figure(figsize=(7.2, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    draw_frontier(axes, summary)
    axes.set_title(
        f"Numbers at points: {dial_text(summary['dial'])}. Bars: ±1 standard error, "
        f"{summary['prompts']} prompts.",
        fontsize=8.5,
        color=GREY,
        loc="left",
    )
    quiet(axes)
    axes.legend(frameon=False, loc="best", fontsize=9)
    save(figure, path)


def draw_frontier(axes: Axes, summary: Mapping[str, Any]) -> None:
    """The panel of `plot_frontier`, without a title and a legend."""
    prompts = summary["prompts"]
    for name, colour, marker, side in (("base", BASE, "s", -1), ("trained", TRAINED, "o", 1)):
        points = sorted(summary[name]["frontier"], key=lambda p: (p["nfe"], p["accuracy"]))
        axes.errorbar(
            [p["nfe"] for p in points],
            [100 * p["accuracy"] for p in points],
            yerr=[100 * _standard_error(p["accuracy"], prompts) for p in points],
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.5,
            elinewidth=1,
            label=f"{name}, fixed {_GAMMA if summary['dial'] == 'gamma' else summary['dial']}",
        )
        for point in points:
            axes.annotate(
                f"{point[summary['dial']]:g}",
                (point["nfe"], 100 * point["accuracy"]),
                xytext=(5 * -side, 7 * side),
                textcoords="offset points",
                ha="right" if side > 0 else "left",
                va="center",
                fontsize=7.5,
                color=colour,
            )
    learned = summary["trained"]["learned"]
    if learned is not None:
        axes.errorbar(
            [learned["nfe"]],
            [100 * learned["accuracy"]],
            yerr=[100 * _standard_error(learned["accuracy"], prompts)],
            color=LEARNED,
            marker="*",
            markersize=15,
            markeredgecolor="white",
            linestyle="none",
            elinewidth=1,
            zorder=5,
            label=f"trained, learned {_GAMMA} (median {learned['gamma_p50']:.2g} nats)",
        )
    axes.set_xlabel("NFE (denoiser calls per sequence)")
    axes.set_ylabel("Accuracy (% of test prompts solved)")
    axes.margins(x=0.08, y=0.1)


def dial_text(dial: str) -> str:
    """What the number of a commit rule is called in words, with its unit."""
    return f"{_GAMMA} in nats" if dial == "gamma" else dial


class Quantity(NamedTuple):
    """Something that a step logs, and how it is drawn against the step.

    Attributes:
      name: of its files.
      line: the metric; `low` and `high`: a band around it; `points`: the same on validation
        prompts.  Empty where there is none.
      unit: of the axis, after multiplication by `scale`.
      log: on a logarithmic axis, as long as nothing is 0.
    """

    name: str
    title: str
    unit: str
    line: str
    low: str = ""
    high: str = ""
    points: str = ""
    scale: float = 1.0
    log: bool = False

    @property
    def fields(self) -> list[str]:
        """The metrics that it is drawn from."""
        return [name for name in (self.line, self.low, self.high, self.points) if name]


_GAMMAS = {"line": "gamma/p50", "low": "gamma/p5", "high": "gamma/p95"}
LEARNING = (
    Quantity("reward", "Training reward", "mean reward", "reward"),
    Quantity("accuracy", "Accuracy", "% solved", "accuracy", points="eval/accuracy", scale=100.0),
    Quantity("calls", "NFE", "calls per sequence", "nfe", points="eval/nfe"),
    Quantity("gamma", "Threshold", f"{_GAMMA} (nats)", **_GAMMAS, log=True),
)


def plot_learning_curves(metrics: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """What training looked like against the RL step, one small panel a quantity, as a PNG.

    Draws, of the lines of stage "rl", `reward`; `accuracy` with `eval/accuracy` (percent);
    `nfe` with `eval/nfe` (calls a sequence); `gamma/p50` with its band from `gamma/p5` to
    `gamma/p95` (nats).  What is missing is not drawn, nor is a panel with nothing in it.
    """
    rows = sorted((r for r in metrics if r["stage"] == "rl"), key=lambda r: r["step"])
    panels = [q for q in LEARNING if logged(q, rows)]
    columns = 2 if len(panels) > 1 else 1
    height = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(4.2 * columns, 2.7 * height), dpi=150, layout="constrained")
    if not panels:
        figure.text(0.5, 0.5, "no RL steps were logged", ha="center", va="center", color=GREY)
    for i, quantity in enumerate(panels):
        axes = figure.add_subplot(height, columns, i + 1)
        draw_quantity(axes, quantity, rows)
        axes.set_title(quantity.title, fontsize=10, loc="left")
        quiet(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="best", fontsize=8)
    save(figure, path)


def logged(quantity: Quantity, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is anything of it to draw."""
    return any(name in row for name in quantity.fields for row in rows)


def draw_quantity(axes: Axes, quantity: Quantity, rows: Sequence[Mapping[str, Any]]) -> None:
    """The panel of one quantity of one run, without a title and a legend.

    Args:
      rows: lines of the metrics of one stage, by step.
    """
    scale, band = quantity.scale, [r for r in rows if {quantity.low, quantity.high} <= r.keys()]
    if quantity.low and band:
        steps, low = series(band, quantity.low)
        high = series(band, quantity.high)[1]
        axes.fill_between(
            steps, low, high, color=TRAINED, alpha=0.2, linewidth=0, label="5 to 95 %"
        )
    label = "median" if quantity.low else "training" if quantity.points else None
    lines = {"color": TRAINED, "linewidth": 1.2, "label": label}
    points = {"color": BASE, "linestyle": "none", "marker": "D", "label": "validation"}
    for name, style in ((quantity.line, lines), (quantity.points, points)):
        steps, values = series(rows, name)
        if steps:
            axes.plot(steps, [scale * v for v in values], markersize=5, **style)
    drawn = [row[name] for row in rows for name in quantity.fields if name in row]
    if quantity.log and min(drawn) > 0:
        log_scale(axes, max(drawn) / min(drawn))
    axes.set_xlabel("RL step")
    axes.set_ylabel(quantity.unit)


def series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the rows that have this metric."""
    found = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in found], [value for _, value in found]


def _standard_error(accuracy: float, prompts: int) -> float:
    return math.sqrt(accuracy * (1 - accuracy) / prompts)


def style(i: int) -> dict[str, Any]:
    """Colour, marker and dashes of the i-th line or group, the same in every figure."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
    }


def log_scale(axes: Axes, span: float) -> None:
    """A logarithmic y-axis with plain numbers; `span` is the largest value over the smallest."""
    axes.set_yscale("log")
    # Within a decade 1, 2 and 5 may leave a single number.
    few = span < 20
    axes.yaxis.set_major_locator(MaxNLocator(5) if few else LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def quiet(axes: Axes) -> None:
    """Takes away what draws the eye from the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def save(figure: Figure, path: str | os.PathLike, kind: str = "png") -> None:
    """Writes a figure atomically, as "png" or "svg"."""
    # A Figure made without pyplot draws with Agg, needs no display and leaves no global state.
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    write_atomic(path, buffer.getvalue())
