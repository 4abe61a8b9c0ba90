"""Reads rows of data sets from the Hugging Face hub, or from files, which need no network."""

import csv
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from diffpo_jax.system import reading
from diffpo_jax.system.errors import UserError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

_TOGETHER = 256  # rows of Parquet that are read together
_BYTES_OF_ROW = 256  # that a row takes as a Python object, besides its values
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Row(NamedTuple):
    """One row, and its place for messages: "file.jsonl: line 3"."""

    values: dict[str, Any]
    where: str


def load(source: str, field: str, *, split: str, columns: Sequence[str]) -> list[Row]:
    """All rows of a data set, in order.

    Args:
      source: a file (.jsonl, .json, .csv, .parquet), a directory of such files, or
        "owner/name[:config[:split]]" on the hub.  An existing path is never searched on the hub.
      field: the configuration field that names the source, for messages.
      split: "train" or "test": the split of a hub data set whose source names none.  In a
        directory with files named after splits, only the files of this one are read.
      columns: columns that every row must have, with text that is not blank.

    Raises:
      UserError: a source that does not exist, a line or file that cannot be read, a missing
        column, no row at all, or a hub that cannot be reached.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        files = _files_of_split([p for p in path.iterdir() if p.suffix in SUFFIXES], split)
        if not files:
            raise UserError(
                f"{field}={source} is a directory without {split} files. Their names must end in "
                f"one of: {', '.join(SUFFIXES)}."
            )
        rows = [row for file in files for row in read_file(file, f"{field}={file}")]
    elif is_local(source):
        rows = list(read_file(path, f"{field}={source}"))
    else:
        rows = _read_hub(source, field, split)
    if not rows:
        raise UserError(f"{field}={source} has no row.")
    for row in rows:
        _check(row, columns)
    return rows


def is_local(source: str) -> bool:
    """Whether a source is a path, and no name on the hub."""
    path = pathlib.Path(source)
    return path.exists() or path.suffix in SUFFIXES or not _HUB_NAME.match(source)


def read_file(path: pathlib.Path, where: str, suffix: str = "") -> Iterator[Row]:
    """Yields the rows of a file in the format of its suffix, or of `suffix`.

    Raises `UserError` if the file does not exist or cannot be read.
    """
    readers = dict(zip(SUFFIXES, (_read_lines, _read_json, _read_csv, _read_parquet)))
    if not path.exists():
        raise UserError(
            f"{where}: no such file. A data set of the hub is named owner/name[:config[:split]]."
        )
    if (suffix := suffix or path.suffix) not in readers:
        raise UserError(f"{where}: the file's name must end in one of: {', '.join(SUFFIXES)}.")
    reading.check_file(path, where, reading.MOST_BYTES)
    try:
        yield from readers[suffix](path, where)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where} cannot be read: {error}.") from error


def _read_lines(path: pathlib.Path, where: str) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            here = f"{where}: line {number}"
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{here} is not JSON: {_fault(error)}.") from error
            yield _object(values, here)


def _read_json(path: pathlib.Path, where: str) -> Iterator[Row]:
    """A list of objects, or one object, or JSON lines."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        if _fault(error) == "Extra data":
            yield from _read_lines(path, where)
            return
        line = f": line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{where}{line} is not JSON: {_fault(error)}.") from error
    values = [values] if isinstance(values, dict) else values
    if not isinstance(values, list):
        raise UserError(f"{where} must be a list of objects.")
    for number, value in enumerate(values, 1):
        yield _object(value, f"{where}: row {number}")


def _object(values: Any, where: str) -> Row:
    if not isinstance(values, dict):
        raise UserError(f'{where} must be an object, such as {{"question": ...}}.')
    return Row(values, where)


def _fault(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__


def _read_csv(path: pathlib.Path, where: str) -> Iterator[Row]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for values in reader:
            yield Row(values, f"{where}: line {reader.line_num}")


def _read_parquet(path: pathlib.Path, where: str) -> Iterator[Row]:
    # Not imported above: it takes a second.
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            # A value that repeats is stored once, so that a few bytes may unfold to any number of
            # them: what counts is the size of the rows, taken a few at a time.
            size, before = 0, 0
            for batch in file.iter_batches(_TOGETHER):
                size += batch.nbytes + batch.num_rows * _BYTES_OF_ROW
                if size > reading.MOST_BYTES:
                    raise reading.too_large(where, reading.MOST_BYTES)
                for number, values in enumerate(batch.to_pylist(), before + 1):
                    yield Row(values, f"{where}: row {number}")
                before += batch.num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{where} cannot be read as Parquet: {_first_line(error)}.") from error


def _read_hub(source: str, field: str, split: str) -> list[Row]:
    # Not imported above: it takes seconds.
    import datasets

    parts = source.split(":")
    name, config, named = [*parts, "", ""][:3]
    if len(parts) > 3 or not _HUB_NAME.fullmatch(name):
        raise UserError(f"{field}={source} must be a file or owner/name[:config[:split]].")
    split = named or split
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(name, config or None, split=split).to_list()
    except Exception as error:  # errors of datasets, the hub's client and the network
        raise UserError(
            f"{field}={source}: split {split!r} cannot be loaded from the Hugging Face hub: "
            f"{_first_line(error)}. Without a network, name a file, or a data set in the hub's "
            "cache (HF_HUB_OFFLINE=1 uses only the cache)."
        ) from error
    return [Row(values, f"{field}={source}: row {i}") for i, values in enumerate(rows, 1)]


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:300]


def _files_of_split(files: list[pathlib.Path], split: str) -> list[pathlib.Path]:
    """The files named after the split, in order, or all files if none is named after a split."""
    names = ("train", "validation", "test")
    named = [file for file in files if file.name.startswith(names)]
    return sorted(file for file in (named or files) if not named or file.name.startswith(split))


def _check(row: Row, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in row.values:
            names = ", ".join(map(str, row.values)) or "none"
            raise UserError(f"{row.where} has no column {column!r}. Its columns: {names}.")
        value = row.values[column]
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{row.where}: column {column!r} must be text; it is {value!r:.80}.")
