"""Fills templates with the columns of a row: {question}, or {attempts[0]} of a list."""

import math
import re

from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import wording
from diffpo_jax.tasks.datasets import hub

_ENTRY = re.compile(r"(.+)\[([0-9]{1,9})\]")


def names(template: str, where: str) -> set[str]:
    """The columns, or entries of columns, that a template names.  Raises like `fill`."""
    return {name for _, name in wording.parse(template, None, where) if name}


def fill(row: hub.Row, template: str, where: str) -> str:
    """The template with the row's values; numbers that are not whole have up to 12 digits.

    Args:
      where: the configuration field that holds the template, for messages.

    Raises:
      UserError: a faulty template; a column or list entry that the row does not have, or that is
        neither text nor a number.
    """
    return wording.fill(template, {n: value(row, n) for n in names(template, where)}, where)


def value(row: hub.Row, name: str) -> str:
    """The text of a column, or of an entry of a column that holds a list: name[0]."""
    entry = _ENTRY.fullmatch(name)
    column, index = (entry[1], int(entry[2])) if entry and name not in row.values else (name, None)
    found = raw(row, column)
    if index is not None:
        if not isinstance(found, list) or index >= len(found):
            raise UserError(f"{row.where}: column {column!r} has no entry {index}: {found!r:.80}.")
        found = found[index]
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise UserError(f"{row.where}: {name!r} must be text or a number; it is {found!r:.80}.")
    if isinstance(found, float) and not math.isfinite(found):
        raise UserError(f"{row.where}: {name!r} must be a finite number; it is {found}.")
    return f"{found:.12g}" if isinstance(found, float) else str(found)


def raw(row: hub.Row, column: str) -> object:
    """The value of a column.  Raises `UserError` with the names of the columns that there are."""
    if column not in row.values:
        raise UserError(
            f"{row.where} has no column {column!r}. Its columns: {', '.join(map(str, row.values))}."
        )
    return row.values[column]
