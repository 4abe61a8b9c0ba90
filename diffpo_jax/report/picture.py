"""A figure together with the numbers that it shows: as files, and as SVG within a page."""

import io
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator

from diffpo_jax.analysis.groups import Group
from diffpo_jax.analysis.runs import Run
from diffpo_jax.report import figures
from diffpo_jax.report.figures import Plot, Point, Series
from diffpo_jax.report.tables import csv_text
from diffpo_jax.system.files import write_atomic

# In inches, without the legend. A page shows small figures side by side or, on a phone, one below
# the other; text stays readable.
SIZE, LARGE = (4.2, 2.9), (9.2, 4.4)
_LEGEND_ROW = 0.19  # inches
_LEGEND_SIZE = 8.5  # points, of its letters
_KEY = 0.6  # inches of a column of the legend that its lines and gaps take
_LETTER = 0.072  # inches that a letter takes, about
_MOST_VALUES = 400  # points of a line that a page knows; of a longer one it knows some

# Colours that follow the page's, light or dark. Figures in files are for white paper.
_PAGE_COLOURS = {
    "#000000": "var(--ink)",
    figures.GREY.lower(): "var(--grey)",
    figures.GRID.lower(): "var(--grid)",
    "#ffffff": "var(--page)",
} | {colour.lower(): f"var(--series-{i})" for i, colour in enumerate(figures.COLOURS)}


class Picture(NamedTuple):
    """One figure, with the numbers that it shows."""

    name: str  # of its files, without the ending
    figure: Plot
    rows: Sequence[Mapping[str, Any]]  # of its CSV
    title: str = ""  # above it on a page
    caption: str = ""  # below it, and its description for those who cannot see it
    sizes: Sequence[tuple[float, float]] = ()  # if large: of the files and wide pages, of phones


class Drawing(NamedTuple):
    """A figure for a page, in one size."""

    id: str  # unique within the page
    box: str  # the viewBox of the <svg> element
    svg: str  # its content
    values: list[dict[str, Any]]  # by series: its name, and its points as (x, y, text)


def new() -> tuple[Plot, Axes]:
    """Returns an empty figure of one panel, in the size that pages use."""
    figure = figures.new(*SIZE)
    return figure, figure.add_subplot()


def finish(figure: Plot, axes: Axes, size: tuple[float, float] = SIZE) -> None:
    """Removes what distracts from the data, and puts the legend, if any, below the panel."""
    figures.quiet(axes)
    _fit(figure, size)


def _fit(figure: Plot, size: tuple[float, float]) -> None:
    """Gives a figure this size, and the height of a legend with as many columns as have room."""
    artists, names = figures.legend_entries(figure)
    for legend in figure.legends:
        legend.remove()
    width, height = size
    if not names:
        figure.set_size_inches(width, height)
        return
    column = _KEY + _LETTER * max(map(len, names))
    columns = max(1, min(len(names), int(width / column), 3))
    figure.set_size_inches(width, height + _LEGEND_ROW * math.ceil(len(names) / columns))
    look = {"loc": "outside lower center", "frameon": False, "fontsize": _LEGEND_SIZE}
    figure.legend(artists, names, ncols=columns, **look)


def run_rows(
    groups: Sequence[Group],
    fields: Sequence[str],
    rows: Callable[[Run], Iterable[Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """Returns these fields of the rows of every run, with the run's name and seed."""
    return [
        {"run": run.name, "seed": run.seed} | {field: row.get(field) for field in fields}
        for group in groups
        for run in group.runs
        for row in rows(run)
    ]


def write(picture: Picture, directory: pathlib.Path) -> None:
    """Writes NAME.png, NAME.svg and NAME.csv."""
    figures.save(picture.figure, directory / f"{picture.name}.png")
    write_atomic(directory / f"{picture.name}.svg", _svg(picture))
    columns = list(dict.fromkeys(column for row in picture.rows for column in row))
    write_atomic(directory / f"{picture.name}.csv", csv_text(columns, picture.rows))


def drawings(picture: Picture) -> list[Drawing]:
    """Returns a figure for a page: once, or if it is large, for wide and for narrow windows."""
    if not picture.sizes:
        return [_drawing(picture, picture.name)]
    result = []
    for i, size in enumerate(picture.sizes):
        _fit(picture.figure, size)
        result.append(_drawing(picture, f"{picture.name}-{i}"))
    _fit(picture.figure, picture.sizes[0])
    return result


def _drawing(picture: Picture, id: str) -> Drawing:
    """Draws a figure for a page: ids are unique there, colours are the page's, text is text."""
    svg = _svg(picture)
    box = re.search(r'viewBox="(0 0 [\d.]+ [\d.]+)"', svg)[1]
    svg = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"\s*<style.*?</style>", "", svg, flags=re.S)  # it would apply to the whole page
    # In styles alone, as a label may hold any text.
    colour = r"(?<=: )#[0-9a-f]{6}(?=[;\"])"
    svg = re.sub(colour, lambda found: _PAGE_COLOURS.get(found[0], found[0]), svg)
    for prefix in (' id="', "url(#", 'href="#'):
        svg = svg.replace(prefix, f"{prefix}{id}-")
    values = [_values(series) for series in picture.figure.series if series.points]
    return Drawing(id, box, svg, values)


def _values(series: Series) -> dict[str, Any]:
    """Returns the points of a series, placed as shares of the width and of the height from the top.

    The figure has been drawn, so that its layout is known.
    """
    every = math.ceil(len(series.points) / _MOST_VALUES)
    axes = series.axes
    to_figure = axes.transData - axes.get_figure().transFigure
    points = []
    for point in series.points[::every]:
        x, y = to_figure.transform((point.x, point.y))
        points.append((round(float(x), 4), round(1 - float(y), 4), _say(axes, point)))
    return {"name": series.name, "points": points}


def _say(axes: Axes, point: Point) -> str:
    """Says where a point is, in the words of the axes: "RL step 3: 40 % solved"."""
    height = point.y if point.height is None else point.height
    x = _with_unit(axes.get_xlabel(), _number(axes.xaxis, point.x))
    y = _with_unit(axes.get_ylabel(), _number(axes.yaxis, height), number_first=True)
    return f"{x}: {y}" + (f" ({point.note})" if point.note else "")


def _with_unit(label: str, value: str, number_first: bool = False) -> str:
    """Puts a value into the label of its axis: "NFE (calls)" gives "NFE 4 calls"."""
    name, bracket, unit = label.partition(" (")
    if bracket:
        return f"{name} {value} {unit.removesuffix(')')}"
    return (f"{value} {label}" if number_first else f"{label} {value}").strip()


def _number(axis: Axis, value: float) -> str:
    """Returns a value as the axis names it, or as a number."""
    if isinstance(axis.get_major_locator(), FixedLocator):  # each has a name, such as a range
        return axis.get_major_formatter()(value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _svg(picture: Picture) -> str:
    """Returns the figure as SVG; the same figure gives the same text (no date, no random ids)."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name}):
        picture.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
