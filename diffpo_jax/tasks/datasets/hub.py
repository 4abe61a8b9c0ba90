"""Rows of published data sets: from the Hugging Face hub, or from files, which need no network."""

import csv
import json
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from diffpo_jax.system.errors import UserError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Row(NamedTuple):
    """One row, and where it stands, for messages: "file.jsonl: line 3"."""

    values: dict[str, Any]
    where: str


def load(source: str, field: str, *, split: str, columns: Sequence[str]) -> list[Row]:
    """All rows of a data set, in order.

    Args:
      source: a file (.jsonl, .json, .csv, .parquet), a directory of such, or
        "owner/name[:config[:split]]" of the hub.  What exists here is never looked for there.
      field: the configuration field that names it, for messages.
      split: "train" or "test".  Of a hub data set: the split, where the source names none.  Of a
        directory whose files begin with the names of splits: which of them are read.
      columns: those that every row must have, as text that is not blank.

    Raises:
      UserError: nothing by that name, a line or file that cannot be read, a missing column, no
        row at all, a hub that cannot be reached.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        files = _of_split([p for p in path.iterdir() if p.suffix in SUFFIXES], split)
        if not files:
            raise UserError(
                f"{field}={source} is a directory without {split} files; it needs some that end "
                f"in {', '.join(SUFFIXES)}."
            )
        rows = [row for file in files for row in _read_file(file, f"{field}={file}")]
    elif path.exists() or path.suffix in SUFFIXES or not _HUB_NAME.match(source):
        rows = list(_read_file(path, f"{field}={source}"))
    else:
        rows = _read_hub(source, field, split)
    if not rows:
        raise UserError(f"{field}={source} holds no row.")
    for row in rows:
        _check(row, columns)
    return rows


def _read_file(path: pathlib.Path, where: str) -> Iterable[Row]:
    readers = {
        ".jsonl": _read_lines,
        ".json": _read_json,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    if not path.exists():
        raise UserError(
            f"{where}: there is no such file. A data set of the hub is named "
            "owner/name[:config[:split]]."
        )
    if path.suffix not in readers:
        raise UserError(f"{where}: a file must end in one of: {', '.join(SUFFIXES)}.")
    try:
        yield from readers[path.suffix](path, where)
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
    """A list of objects; JSON lines under this name are read as such."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise UserError(
                f"{where}: line {error.lineno} is not JSON: {_fault(error)}."
            ) from error
        yield from _read_lines(path, where)
        return
    except RecursionError as error:
        raise UserError(f"{where} is not JSON: {_fault(error)}.") from error
    if isinstance(values, dict):
        values = [values]
    if not isinstance(values, list):
        raise UserError(f"{where} must hold a list of objects.")
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
    import datasets

    datasets.disable_progress_bars()
    try:
        # Its copy of the data is of no use: the rows are in memory.
        with tempfile.TemporaryDirectory() as cache:
            table = datasets.Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
            rows = table.to_list()
    except Exception as error:  # pyarrow's and datasets' errors have no common class
        raise UserError(f"{where} cannot be read as Parquet: {_first_line(error)}.") from error
    for number, values in enumerate(rows, 1):
        yield Row(values, f"{where}: row {number}")


def _read_hub(source: str, field: str, split: str) -> list[Row]:
    # Here and not above: it takes seconds to import.
    import datasets

    name, *rest = source.split(":")
    if len(rest) > 2 or not _HUB_NAME.fullmatch(name):
        raise UserError(f"{field}={source}: write owner/name[:config[:split]], or name a file.")
    config, split = (*rest, "", "")[0] or None, (*rest, "", "")[1] or split
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(name, config, split=split).to_list()
    except Exception as error:  # errors of datasets, the hub's client and the network
        raise UserError(
            f"{field}={source}: split {split!r} cannot be had from the Hugging Face hub: "
            f"{_first_line(error)}. Where there is no network, give a file, or a data set that "
            "is in the hub's cache (HF_HUB_OFFLINE=1 looks only there)."
        ) from error
    return [Row(values, f"{field}={source}: row {i}") for i, values in enumerate(rows, 1)]


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:300]


def _of_split(files: list[pathlib.Path], split: str) -> list[pathlib.Path]:
    """The files of a split, by name; all, where no file is named after a split."""
    names = ("train", "validation", "test")
    named = [file for file in files if file.name.startswith(names)]
    return sorted(file for file in (named or files) if not named or file.name.startswith(split))


def _check(row: Row, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in row.values:
            there = ", ".join(str(name) for name in row.values) or "none"
            raise UserError(f"{row.where} has no column {column!r}. Its columns: {there}.")
        value = row.values[column]
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{row.where}: column {column!r} must be text; it is {value!r:.80}.")
