"""Tables: as CSV, as text for a terminal, as Markdown, and within JSON."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what begins a formula in a spreadsheet


class Table(NamedTuple):
    """A table; cells are text or numbers, and None is an empty cell."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    folded: bool = False  # a page shows only the title until a reader opens it


def from_rows(title: str, rows: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """Makes a table of rows {column: cell} that all have the same columns."""
    return Table(title, list(rows[0]), [list(row.values()) for row in rows], note)


def as_json(table: Table) -> dict[str, Any]:
    """Returns a table as a study's results.json holds it."""
    return {name: getattr(table, name) for name in ("title", "columns", "rows", "note")}


def from_json(value: Mapping[str, Any]) -> Table:
    """Reverses `as_json`; the title and the note may be missing."""
    title, note = (str(value.get(name) or "") for name in ("title", "note"))
    return Table(title, value["columns"], value["rows"], note)


def as_text(table: Table) -> str:
    """Returns a table of text cells for a terminal, ending in a newline."""
    rows = ["  ".join(cells).rstrip() for cells in _aligned(table)]
    return "\n".join([table.title, "", *rows, "", table.note]) + "\n"


def as_markdown(table: Table) -> str:
    """Returns a table of text cells as a section of a Markdown document."""
    head, *rows = (f"| {' | '.join(cells)} |" for cells in _aligned(table))
    rule = f"|---|{'---:|' * (len(table.columns) - 1)}"
    return "\n".join([f"## {table.title}", "", head, rule, *rows, "", table.note]) + "\n"


def _aligned(table: Table) -> list[list[str]]:
    rows = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    return [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        for row in rows
    ]


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as CSV with a header; numbers are not rounded.

    A field that a row lacks is empty; fields that are not columns are left out.  Text that a
    spreadsheet would take for a formula gets an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_no_formula, columns))
    writer.writerows([_no_formula(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _no_formula(cell: Any) -> Any:
    """The cell, such that a spreadsheet that opens the file runs nothing; numbers are unchanged."""
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r", "\n")  # csv quotes only the ends of lines that it writes itself
    return f"'{text}" if cell.startswith(_FORMULA) else text


def file_part(task: str) -> str:
    """Makes a task's name part of a file's name: "sudoku:study" -> "sudoku-study"."""
    return re.sub("[^A-Za-z0-9._-]", "-", task)
