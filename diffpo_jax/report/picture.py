"""A figure together with the numbers that it shows: as files, and as SVG within a page."""

import io
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffpo_jax.analysis.groups import Group
from diffpo_jax.analysis.runs import Run
from diffpo_jax.report import figures
from diffpo_jax.report.tables import csv_text
from diffpo_jax.system.files import write_atomic

# A page shows figures side by side or, on a phone, one below the other; text stays readable.
SIZE = (4.2, 2.9)  # inches
_LEGEND_ROW = 0.19  # inches
_LONG_LABEL = 24  # characters; longer labels get a line of their own in the legend

# Colours that follow the page's, light or dark. Figures in files are for white paper.
_PAGE_COLOURS = {
    "#000000": "var(--ink)",
    figures.GREY.lower(): "var(--grey)",
    figures.GRID.lower(): "var(--grid)",
    "#ffffff": "var(--page)",
}


class Picture(NamedTuple):
    """One figure, with the numbers that it shows."""

    name: str  # of its files, without the ending
    figure: Figure
    rows: Sequence[Mapping[str, Any]]  # of its CSV
    title: str = ""  # above it on a page
    caption: str = ""  # below it, and its description for those who cannot see it


def new() -> tuple[Figure, Axes]:
    """Returns an empty figure of one panel, in the size that pages use."""
    figure = figures.new(*SIZE)
    return figure, figure.add_subplot()


def finish(figure: Figure, axes: Axes) -> None:
    """Removes what distracts from the data, and puts the legend, if any, below the panel."""
    figures.quiet(axes)
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    columns = 1 if max(map(len, labels)) > _LONG_LABEL else 2
    width, height = SIZE
    figure.set_size_inches(width, height + _LEGEND_ROW * math.ceil(len(labels) / columns))
    look = {"loc": "outside lower center", "frameon": False, "fontsize": 8.5}
    figure.legend(handles, labels, ncols=columns, **look)


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


def svg_parts(picture: Picture) -> tuple[str, str]:
    """Returns the viewBox and the content of an <svg> element for a page.

    Its ids are unique within a page, its colours are the page's, and its text is text.
    """
    svg = _svg(picture)
    box = re.search(r'viewBox="(0 0 [\d.]+ [\d.]+)"', svg)[1]
    svg = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"\s*<style.*?</style>", "", svg, flags=re.S)  # it would apply to the whole page
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    for prefix in (' id="', "url(#", 'href="#'):
        svg = svg.replace(prefix, f"{prefix}{picture.name}-")
    return box, svg


def _svg(picture: Picture) -> str:
    """Returns the figure as SVG; the same figure gives the same text (no date, no random ids)."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name}):
        picture.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
