"""Metrics: their means, and the file `metrics.jsonl` that keeps them.

A metric leaves a device program as a pair (sum, count), so that micro-batches, devices and hosts
add up exactly however they split the batch. `means` divides once, at the very end.

A line of `metrics.jsonl` is `{"stage": ..., "step": ..., names in order ..., "time/...": ...}`.
Only fields whose names start with `time/` may differ between two runs of one configuration, or
between a run and the same run killed and resumed.
"""

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffpo_jax.system import durable
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.files import write_atomic
from diffpo_jax.system.progress import say
from diffpo_jax.workdir.trackers import Tracker

_OWN_FIELDS = ("stage", "step")
_TIME = "time/"


def means(metrics: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    """The mean of each metric from its (sum, count), divided once in float64.

    Sum and count are scalars of any kind (numbers, numpy or device arrays). A metric with a count
    of 0 has no mean and is left out.
    """
    result = {}
    for name, (total, count) in metrics.items():
        count = _scalar(count)
        if count:
            result[name] = _scalar(total) / count
    return result


class MetricsWriter:
    """Appends lines to `metrics.jsonl` and passes them to trackers.

    Each line is one append, so that a kill leaves at most one torn line, the last, which every
    reader here ignores and the next writer removes. The file is opened, synced and closed for each
    line: a bucket mounted as a directory stores a file when it is closed, and a preemption loses
    what is not stored. Only one writer may use a file at a time.

    If a tracker fails, for example without a network, it is dropped with one warning and the run
    goes on: the file has everything.
    """

    def __init__(self, path: str | os.PathLike, trackers: Sequence[Tracker] = ()):
        """Creates the file and its directory if they are missing; removes a torn last line.

        Raises:
          UserError: the file is damaged.
        """
        self._path = Path(path)
        self._trackers = list(trackers)
        durable.make_directory(self._path.parent)
        self.cut_back(lambda row: True)
        if not self._path.exists():
            os.close(self._open())
            durable.sync(self._path.parent)

    def cut_back(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drops the lines for which `keep(line)` is false; raises what `cut_back` below does."""
        cut_back(self._path, keep)

    def write(
        self, stage: str, step: int, values: Mapping[str, float], times: Mapping[str, float]
    ) -> None:
        """Appends the line of one step; equal numbers give equal text.

        Args:
          times: seconds, or rates that depend on them; their names get the prefix `time/`.

        Raises:
          ValueError: a name is reserved.
          UserError: a number is NaN or infinite: the run has diverged, and stopping here keeps it
            from saving the damage.
          OSError: the line could not be written whole (disk full); the part written is removed.
        """
        place = f"metrics of stage {stage!r}, step {step}"
        for name in values:
            if name in _OWN_FIELDS or name.startswith(_TIME):
                raise ValueError(f"{place}: the name {name!r} is reserved.")
        numbers = {name: _finite(values[name], name, place) for name in sorted(values)}
        numbers |= {_TIME + name: _finite(times[name], name, place) for name in sorted(times)}
        row = {"stage": stage, "step": int(step)} | numbers
        self._append((json.dumps(row, allow_nan=False) + "\n").encode("utf-8"))
        self._for_each_tracker(lambda tracker: tracker.write(stage, int(step), numbers))

    def close(self) -> None:
        """Closes the trackers; a second call does nothing."""
        self._for_each_tracker(lambda tracker: tracker.close())
        self._trackers = []

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _for_each_tracker(self, action: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._trackers):
            try:
                action(tracker)
            except Exception as error:  # any error of a foreign package or of the network
                self._trackers.remove(tracker)
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                say(
                    f"warning: {tracker.name} failed and gets no more lines ({reason}); "
                    f"{self._path} has all."
                )

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def _append(self, line: bytes) -> None:
        file = self._open()
        try:
            before = os.fstat(file).st_size
            try:
                self._write_whole(file, line)
            except OSError:
                with contextlib.suppress(OSError):  # report the first error
                    os.ftruncate(file, before)
                raise
        finally:
            os.close(file)

    def _write_whole(self, file: int, line: bytes) -> None:
        written = os.write(file, line)
        if written < len(line):
            raise OSError(
                errno.ENOSPC,
                f"only {written} of {len(line)} bytes could be written to {self._path}; "
                "is the disk full?",
            )
        try:
            os.fsync(file)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a device such as /dev/null has nothing to sync
                raise


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a metrics file in order; a torn last line is ignored.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: a line other than the last is damaged.
    """
    return [row for _, row in _whole_lines(Path(path))]


def cut_back(path: str | os.PathLike, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrites the file, atomically, with the whole lines for which `keep(line)` is true.

    These lines stay the same byte for byte, and a torn last line is dropped. A missing file is
    allowed, and a file that would not change is not touched.

    Raises:
      UserError: a line other than the last is damaged.
      OSError: the new file could not be written; the old one is untouched.
    """
    path = Path(path)
    if not path.exists():
        return
    kept = b"".join(line for line, row in _whole_lines(path) if keep(row))
    if len(kept) != path.stat().st_size:
        write_atomic(path, kept)


def _whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The bytes of each whole line, with the newline, and the object in it."""
    # Split at "\n" alone: bytes.splitlines would also split at a stray carriage return.
    *lines, rest = path.read_bytes().split(b"\n")
    result = []
    for i, line in enumerate(lines):
        row = _parse(line)
        if row is None:
            if i == len(lines) - 1 and not rest:
                break
            raise UserError(
                f"{path}: line {i + 1} is not a JSON object but other lines follow it, so a kill "
                "did not cause this damage. Remove that line."
            )
        if fault := _fault(row):
            raise UserError(f"{path}: line {i + 1} {fault}; this is not the metrics file of a run.")
        result.append((line + b"\n", row))
    return result


def _fault(row: dict[str, Any]) -> str:
    """What keeps an object from being a line of metrics, or "" if nothing does."""
    if not isinstance(row.get("stage"), str) or type(row.get("step")) is not int:
        return "has no stage or no step"
    others = (name for name in row if name not in _OWN_FIELDS)
    odd = next((name for name in others if type(row[name]) not in (int, float)), None)
    return "" if odd is None else f"has {odd}={row[odd]!r:.40}, which is no number"


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _scalar(value: Any) -> float:
    return np.asarray(value).astype(np.float64).item()


def _finite(value: Any, name: str, place: str) -> float:
    number = _scalar(value)
    if not math.isfinite(number):
        raise UserError(f"{place}: {name} is {number}; the run has diverged.")
    return number + 0.0  # -0.0 equals 0.0 and must give the same text
