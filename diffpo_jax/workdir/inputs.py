"""What a run reads, as inputs.json records it: a resumed run must read the same.

The digests are of what is read, not of files, so that a copy of a file is the same input.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError


class Input(NamedTuple):
    """Something that a run reads.

    Attributes:
      field: the field of the configuration that decides what is read, with its value.
      what: what it is, for messages, in the plural.
      sha256: of the content, in hexadecimal.
      rows: how many there are; None if they are not counted.
    """

    field: str
    what: str
    sha256: str
    rows: int | None = None


def read(path: pathlib.Path) -> dict[str, Input]:
    """The recorded inputs by name; none if there is no file, which older versions did not write.

    Raises:
      UserError: the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        return {name: Input(**value) for name, value in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). If the run's data have not changed, delete it."
        ) from error


def write(path: pathlib.Path, inputs: Mapping[str, Input]) -> None:
    """Records inputs in place of those that the file has."""
    files.write_json(path, {name: value._asdict() for name, value in inputs.items()})


def differences(old: Mapping[str, Input], new: Mapping[str, Input]) -> dict[str, str]:
    """By name, how inputs of the same field differ; others are another choice and not compared."""
    return {
        name: _difference(old[name], new[name])
        for name in _common(old, new)
        if old[name].sha256 != new[name].sha256
    }


def _common(old: Mapping[str, Input], new: Mapping[str, Input]) -> Iterable[str]:
    return (name for name in new if name in old and old[name].field == new[name].field)


def _difference(old: Input, new: Input) -> str:
    if old.rows != new.rows:
        return f"{new.field}: {old.rows} {new.what} when the run began, {new.rows} now"
    count = "" if new.rows is None else f"{new.rows} "
    return f"{new.field}: the {count}{new.what} are not those with which the run began"
