"""The style of every figure, and the drawings that figures share."""

import io
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from diffpo_jax.analysis.summary import dial_of
from diffpo_jax.config import DIALS
from diffpo_jax.system.files import write_atomic

# The palette of Okabe and Ito, which colour-blind readers can tell apart. Markers differ too, for
# print in grey, and dashes for the first six lines, the next six, and so on.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":")
TRAINED, BASE, LEARNED = COLOURS[:3]  # in figures of a single run
GREY, GRID = "#555555", "#E5E5E5"
GAMMA = "\N{GREEK SMALL LETTER GAMMA}"
NFE = "NFE (denoiser calls per sequence)"
ACCURACY = "% of test prompts solved"
_TAG_WIDTH, _TAG_HEIGHT = 17, 8  # points: tags that are nearer overlap


class Quantity(NamedTuple):
    """A quantity of a run, and how it is drawn against the step or the difficulty."""

    name: str  # of its files
    title: str
    unit: str  # label of the axis, for values multiplied by `scale`
    line: str  # the field that is drawn
    low: str = ""  # fields at the ends of a band around it, if it has one
    high: str = ""
    points: str = ""  # the same quantity on validation prompts, if it has one
    scale: float = 1.0
    log: bool = False  # use a logarithmic axis if all values are positive

    @property
    def fields(self) -> list[str]:
        """The fields that it is drawn from."""
        return [name for name in (self.line, self.low, self.high, self.points) if name]

    def is_in(self, row: Mapping[str, Any]) -> bool:
        """Returns whether a row has anything of it to draw."""
        return any(name in row for name in self.fields)


class Point(NamedTuple):
    """A point whose values a reader may ask for."""

    x: float
    y: float
    note: str = ""  # what else to say about it
    height: float | None = None  # of a bar that stands on another: its value, in place of y


class Series(NamedTuple):
    """A line, a row of points or of bars, with what a reader may ask about it."""

    axes: Axes
    name: str  # empty for none
    artist: Any  # that the legend shows
    points: list[Point]
    in_legend: bool


class Plot(Figure):
    """A figure that knows its series, for legends and for the values that pages show.

    Matplotlib leaves a label that begins with "_" out of legends, and takes text between dollar
    signs for mathematics. Labels here are a user's words, so neither is done.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.series: list[Series] = []
        self.tags: list[Annotation] = []  # small print at points

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """Writes the figure with all its text as it is."""
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().savefig(*args, **kwargs)

    def draw(self, renderer: RendererBase) -> None:
        """Draws the figure; of tags that would overlap only the first."""
        taken: list[tuple[float, float]] = []
        for tag in self.tags:
            x, y = tag.axes.transData.transform(tag.xy) * 72 / self.dpi + tag.xyann
            is_free = all(abs(x - a) > _TAG_WIDTH or abs(y - b) > _TAG_HEIGHT for a, b in taken)
            tag.set_visible(is_free)
            taken += [(x, y)] * is_free
        super().draw(renderer)


def new(width: float, height: float) -> Plot:
    """Returns an empty figure; sizes are in inches."""
    # A Figure made without pyplot needs no display and leaves no global state.
    return Plot(figsize=(width, height), dpi=150, layout="constrained")


def add_series(
    axes: Axes,
    artist: Any,
    name: str | None = None,
    points: Iterable[Point] = (),
    in_legend: bool = True,
) -> None:
    """Notes a drawn series in its figure; without a name it is in no legend."""
    in_legend = in_legend and bool(name)
    artist.set_label(name if in_legend else "_nolegend_")
    axes.get_figure().series.append(Series(axes, name or "", artist, list(points), in_legend))


def legend_entries(figure: Plot, axes: Axes | None = None) -> tuple[list[Any], list[str]]:
    """Returns the artists and names of a figure's legend, or of one panel's."""
    named = [x for x in figure.series if x.in_legend and axes in (None, x.axes)]
    return [x.artist for x in named], [x.name for x in named]


def draw_legend(axes: Axes, **look: Any) -> None:
    """Draws the legend of a panel within it, where there is most room, if it has named series."""
    artists, names = legend_entries(axes.get_figure(), axes)
    if artists:
        axes.legend(artists, names, **{"frameon": False, "loc": "best", "fontsize": 8.5} | look)


def style(place: int) -> dict[str, Any]:
    """Returns the colour, marker and dashes of a line by its place, the same in every figure."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
    }


def base_style(place: int) -> dict[str, Any]:
    """Returns how base models are drawn beside several arms, by their place."""
    return {"color": GREY, "marker": "x+1234"[place % 6], "linestyle": "--"}


def draw_frontier(
    axes: Axes,
    points: Sequence[Mapping[str, float]],
    *,
    prompts: int = 0,
    dial: str = "",
    above: bool = True,
    label: str | None = None,
    in_legend: bool = True,
    **line: Any,
) -> None:
    """Draws accuracy (percent) against denoiser calls per sequence.

    Args:
      prompts: number of test prompts, for bars of one binomial standard error; 0 for no bars.
      dial: name of the number that is written `above` each point or below; empty for none.
    """
    points = sorted(points, key=lambda p: (p["nfe"], p["accuracy"]))
    accuracy = [100 * p["accuracy"] for p in points]
    errors = [math.sqrt(y * (100 - y) / prompts) for y in accuracy] if prompts else None
    line = {"linewidth": 1.5, "markersize": 5, "elinewidth": 1} | line
    calls = [p["nfe"] for p in points]
    drawn = axes.errorbar(calls, accuracy, yerr=errors, **line)
    places = map(Point, calls, accuracy, map(_dial_note, points))
    add_series(axes, drawn, label, places, in_legend)
    place = {"xytext": (-5, 7), "ha": "right"} if above else {"xytext": (5, -7), "ha": "left"}
    look = {"textcoords": "offset points", "va": "center", "fontsize": 7.5, "zorder": 6}
    look["color"] = line["color"]
    for point, y in zip(points if dial else (), accuracy):
        tag = axes.annotate(f"{point[dial]:g}", (point["nfe"], y), **place, **look)
        axes.get_figure().tags.append(tag)


def _dial_note(point: Mapping[str, float]) -> str:
    """The dial of a point of a frontier, in words; empty if it has none."""
    names = [name for name in dict.fromkeys((*DIALS.values(), "dial")) if name in point]
    return ", ".join(
        f"{GAMMA} {point[name]:g} nats" if name == "gamma" else f"{name} {point[name]:g}"
        for name in names
    )


def draw_star(axes: Axes, point: Mapping[str, float], **line: Any) -> None:
    """Draws a learned point as a star; arguments are those of `draw_frontier`."""
    star = {"marker": "*", "markersize": 13, "markeredgecolor": "white", "linestyle": "none"}
    draw_frontier(axes, [point], **star | {"zorder": 5} | line)


def draw_run_frontier(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Draws both frontiers of a run and its learned point."""
    prompts, learned = summary["prompts"], summary["trained"]["learned"]
    for model, colour, marker in (("base", BASE, "s"), ("trained", TRAINED, "o")):
        dial = dial_of(summary, model)
        kind = (
            "by state, price" if dial == "price" else f"fixed {GAMMA if dial == 'gamma' else dial}"
        )
        own = summary.get("rule", "")
        rule = summary.get("base_rule", own)
        named = model == "base" and rule != own
        label = f"{model}, {rule}, {kind}" if named else f"{model}, {kind}"
        look = {"color": colour, "marker": marker, "label": label, "above": model == "trained"}
        draw_frontier(axes, summary[model]["frontier"], prompts=prompts, dial=dial, **look)
    for place, (rule, points) in enumerate(summary["base"].get("rules", {}).items()):
        look = {"color": GREY, "marker": MARKERS[place + 2], "markersize": 3.5, "linewidth": 0.8}
        draw_frontier(axes, points, label=f"base, {rule}", **look)
    if ideal := summary.get("hindsight"):
        look = {"color": GREY, "marker": "", "linewidth": 0.8, "linestyle": ":"}
        draw_frontier(axes, ideal, label="base, best dial of each prompt in hindsight", **look)
    if learned is not None:
        label = f"trained, learned {GAMMA} (median {learned['gamma_p50']:.2g} nats)"
        draw_star(axes, learned, prompts=prompts, markersize=15, color=LEARNED, label=label)
    axes.margins(x=0.08, y=0.1)


def draw_curve(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    band: Sequence[Sequence[float]] | None = None,
    *,
    window: int = 1,
    raw: bool = True,
    label: str | None = None,
    band_label: str | None = None,
    **line: Any,
) -> None:
    """Draws a line, with a band around it, both smoothed over a `window` of points.

    If it is smoothed, the line is also drawn as it is, faintly, unless `raw` is False.
    """
    line = {"linewidth": 1.4, "markersize": 4} | line
    smoothed = smooth(y, window)
    notes = [[] for _ in y]
    (drawn,) = axes.plot(x, smoothed, **line)
    if window > 1:
        notes = [[f"{value:.4g} before smoothing"] for value in y]
    if window > 1 and raw:
        axes.plot(x, y, color=line["color"], linewidth=0.8, alpha=0.3, zorder=1.5)
    if band is not None:
        low, high = (smooth(end, window) for end in band)
        for note, a, b in zip(notes, low, high):
            note.append(f"{band_label or 'range'}: {a:.4g} to {b:.4g}")
    add_series(axes, drawn, label, map(Point, x, smoothed, map(", ".join, notes)))
    if band is not None:
        filled = axes.fill_between(x, low, high, color=line["color"], alpha=0.18, linewidth=0)
        add_series(axes, filled, band_label)


def draw_quantity(
    axes: Axes,
    quantity: Quantity,
    rows: Sequence[Mapping[str, Any]],
    x: str = "step",
    **line: Any,
) -> None:
    """Draws the line and the band of a quantity against the field `x` of the rows."""
    rows = [row for row in rows if quantity.line in row]
    if rows:
        ends = (quantity.low, quantity.high)
        names = [quantity.line, *(ends if all({*ends} <= row.keys() for row in rows) else ())]
        y, *band = ([quantity.scale * row[name] for row in rows] for name in names)
        draw_curve(axes, [row[x] for row in rows], y, band or None, **line)
    axes.set_ylabel(quantity.unit)
    if quantity.log:
        log_scale(axes)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Returns the mean, over a window around each value, of running medians over as many.

    A mean alone would not do: estimates of a KL have single values that dominate any mean.
    """
    medians = _running(statistics.median, values, window)
    return _running(statistics.fmean, medians, window)


def _running(
    average: Callable[[Sequence[float]], float], values: Sequence[float], window: int
) -> list[float]:
    """Averages over a window around each value; it is cut off at the ends."""
    half = window // 2
    return [average(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def log_scale(axes: Axes) -> None:
    """Makes the y-axis logarithmic, with plain numbers, if all that is drawn is positive."""
    low, high = axes.dataLim.intervaly
    if not 0 < low <= high:
        return
    axes.set_yscale("log")
    # Within one decade, ticks at 1, 2 and 5 may leave a single number.
    few = high / low < 20
    axes.yaxis.set_major_locator(MaxNLocator(5) if few else LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def draw_level(axes: Axes, y: float, label: str, **line: Any) -> None:
    """Draws a horizontal line across the panel."""
    drawn = axes.axhline(y, **{"linewidth": 1.2, "linestyle": "--", "marker": ""} | line)
    add_series(axes, drawn, label)


def quiet(axes: Axes, title: str = "", note: str = "") -> None:
    """Removes what distracts from the data; writes a title, or a note in small print, above it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    look = {"fontsize": 8.5, "color": GREY} if note else {"fontsize": 10}
    axes.set_title(note or title, loc="left", **look)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure atomically as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
