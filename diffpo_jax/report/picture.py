"""A figure with the numbers that it shows: as files, and as SVG within a page."""

import html
import io
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffpo_jax.report import figures
from diffpo_jax.report.tables import csv_text
from diffpo_jax.system.files import write_atomic

# As a page puts figures beside one another or, on a telephone, below: text stays readable.
SIZE = (4.2, 2.9)  # inches
_LEGEND_ROW = 0.19  # inches
_LONG = 24  # characters of a label from which each has a line of its own

# What follows the page's colours, light or dark; the figures in files are for white paper.
_OF_PAGE = {
    "#000000": "var(--ink)",
    figures.GREY.lower(): "var(--grey)",
    figures.GRID.lower(): "var(--grid)",
    "#ffffff": "var(--page)",
}


class Picture(NamedTuple):
    """One figure.

    Attributes:
      name: of its files, without the ending.
      title: above it on the page.
      says: what is drawn, below it; also its description for those who cannot see it.
      columns, rows: the numbers that are drawn, as its CSV holds them.
    """

    name: str
    title: str
    says: str
    figure: Figure
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]


def new() -> tuple[Figure, Axes]:
    """An empty figure of one panel."""
    figure = Figure(figsize=SIZE, dpi=150, layout="constrained")
    return figure, figure.add_subplot()


def finish(figure: Figure, axes: Axes) -> None:
    """Takes away what draws the eye, and puts the legend, if there is one, below the panel."""
    figures.quiet(axes)
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    columns = 1 if max(map(len, labels)) > _LONG else 2
    width, height = SIZE
    figure.set_size_inches(width, height + _LEGEND_ROW * math.ceil(len(labels) / columns))
    where = "outside lower center"
    figure.legend(handles, labels, loc=where, ncols=columns, frameon=False, fontsize=8.5)


def write(picture: Picture, directory: pathlib.Path) -> None:
    """Writes NAME.png, NAME.svg and NAME.csv."""
    figures.save(picture.figure, directory / f"{picture.name}.png")
    write_atomic(directory / f"{picture.name}.svg", _svg(picture))
    write_atomic(directory / f"{picture.name}.csv", csv_text(picture.columns, picture.rows))


def inline(picture: Picture) -> str:
    """The figure as an <svg> element for a page: its own ids, the page's colours, text as text."""
    svg = _svg(picture)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"\s*<style.*?</style>", "", svg, flags=re.S)  # a page's style holds everywhere
    for colour, variable in _OF_PAGE.items():
        svg = svg.replace(colour, variable)
    # Several figures in one document: ids must not meet.
    svg = re.sub(r'\bid="', f'id="{picture.name}-', svg)
    svg = svg.replace("url(#", f"url(#{picture.name}-").replace(
        'href="#', f'href="#{picture.name}-'
    )
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    title, says = html.escape(picture.title), html.escape(picture.says)
    head = (
        f'<svg class="figure" role="img" viewBox="0 0 {width} {height}" '
        f'aria-labelledby="{picture.name}-title {picture.name}-desc">'
        f'<title id="{picture.name}-title">{title}</title>'
        f'<desc id="{picture.name}-desc">{says}</desc>'
    )
    return head + svg[svg.index(">") + 1 :]


def _svg(picture: Picture) -> str:
    """The same figure gives the same text: neither a date nor random ids are in it."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name}):
        picture.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
