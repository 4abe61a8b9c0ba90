"""Tables, as CSV and for a page."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
    """What a page shows as a table; cells are text or numbers, and None is an empty cell.

    Attributes:
      folded: shown under its title only when asked for.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    folded: bool = False


def file_part(task: str) -> str:
    """A task's name as part of a file's: "sudoku:study" -> "sudoku-study"."""
    return re.sub("[^A-Za-z0-9._-]", "-", task)


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; numbers as Python writes them, so that none is rounded.

    A field that a row lacks is empty, and one that is no column is left out.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
