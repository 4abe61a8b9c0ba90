"""Metrics: how they are averaged, and `metrics.jsonl`, where they are kept.

A metric leaves a device program as a pair (sum, count), so that micro-batches, devices and
hosts add up exactly whatever the split; `means` divides once, at the very end.

A line of `metrics.jsonl` is `{"stage": ..., "step": ..., names in order ..., "time/...": ...}`.
Only fields whose name starts with `time/` may differ between two runs of one configuration
and between a run and the same run killed and resumed.
"""

import contextlib
import errno
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffpo_jax.system.errors import UserError
from diffpo_jax.system.files import write_atomic
from diffpo_jax.workdir.trackers import Tracker

_OWN_FIELDS = ("stage", "step")
_TIME = "time/"


def means(metrics: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    """The mean of each metric from its (sum, count), divided once in float64.

    Sum and count are scalars of any kind (numbers, numpy or device arrays).  A metric that
    counted nothing is left out: it has no mean.
    """
    result = {}
    for name, (total, count) in metrics.items():
        count = _scalar(count)
        if count:
            result[name] = _scalar(total) / count
    return result


class MetricsWriter:
    """Appends lines to `metrics.jsonl`, and gives them to trackers.

    A line goes out in a single append, so a kill leaves at most one torn line, the last,
    which every reader here ignores and the next writer removes.  The file is opened, synced and
    closed for each line: a bucket that is mounted as a directory takes a file when it is closed,
    and what it has not taken a preemption loses.  One writer a file.

    The file is what counts: a tracker that fails, for want of a network say, is given up with one
    warning, and the run goes on.
    """

    def __init__(self, path: str | os.PathLike, trackers: Sequence[Tracker] = ()):
        """Makes the file if there is none, and its directory; removes a torn last line.

        Raises:
          UserError: a damaged file.
        """
        self._path = Path(path)
        self._trackers = list(trackers)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.cut_back(lambda row: True)
        os.close(self._open())

    def cut_back(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drops the lines that `keep` refuses; raises like the function `cut_back`."""
        cut_back(self._path, keep)

    def write(
        self, stage: str, step: int, values: Mapping[str, float], times: Mapping[str, float]
    ) -> None:
        """Appends the line of one step.

        Equal numbers give equal text.  The names of `times` (seconds, or rates that depend on
        them) get the prefix `time/`.

        Raises:
          ValueError: a number that is NaN or infinite: the run has diverged, and stopping
            here keeps it from saving the damage; or a name that is taken.
          OSError: the line could not be written whole (disk full); what was written of it is
            taken back.
        """
        where = f"metrics of stage {stage!r}, step {step}"
        for name in values:
            if name in _OWN_FIELDS or name.startswith(_TIME):
                raise ValueError(f"{where}: the name {name!r} is reserved.")
        numbers = {name: _finite(values[name], name, where) for name in sorted(values)}
        seconds = {_TIME + name: _finite(times[name], name, where) for name in sorted(times)}
        row = {"stage": stage, "step": int(step)} | numbers | seconds
        self._append((json.dumps(row, allow_nan=False) + "\n").encode("utf-8"))
        for tracker in tuple(self._trackers):
            self._guarded(tracker, lambda to: to.write(stage, int(step), numbers | seconds))

    def close(self) -> None:
        """Closes the trackers; a second call does nothing."""
        for tracker in tuple(self._trackers):
            self._guarded(tracker, lambda to: to.close())
        self._trackers = []

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _guarded(self, tracker: Tracker, act: Callable[[Tracker], None]) -> None:
        try:
            act(tracker)
        except Exception as error:  # of other people's packages, and of networks
            self._trackers.remove(tracker)
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            print(
                f"warning: {tracker.name} failed and gets no more lines ({reason}); "
                f"{self._path} has all.",
                file=sys.stderr,
                flush=True,
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
                with contextlib.suppress(OSError):  # the first fault is the one to tell
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
            if error.errno != errno.EINVAL:  # a device, /dev/null say, has nothing to sync
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

    Kept lines stay as they are, byte for byte; a torn last line goes.  A missing file is
    fine, and a file that would not change is not touched.

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
    """Each whole line's bytes, newline included, with what it says."""
    # Split at "\n" alone: bytes.splitlines would also split at a stray carriage return.
    *lines, rest = path.read_bytes().split(b"\n")
    result = []
    for i, line in enumerate(lines):
        row = _parse(line)
        if row is None:
            if i == len(lines) - 1 and not rest:
                break
            raise UserError(
                f"{path}: line {i + 1} is not a JSON object though others follow it; the file "
                "was damaged by something other than a kill. Remove that line."
            )
        result.append((line + b"\n", row))
    return result


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _scalar(value: Any) -> float:
    return np.asarray(value).astype(np.float64).item()


def _finite(value: Any, name: str, where: str) -> float:
    number = _scalar(value)
    if not math.isfinite(number):
        raise ValueError(f"{where}: {name} is {number}; the run has diverged.")
    return number + 0.0  # -0.0 equals 0.0 and must read the same
