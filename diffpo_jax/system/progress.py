"""Progress on standard error: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

from diffpo_jax.system import terminal

LINE_SECONDS = 10.0  # shortest time between two plain lines

_FORMAT = (
    "{desc} {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
)
_BAR_FORMAT = _FORMAT.replace("% ", "% |{bar:20}| ")


def say(text: str) -> None:
    """Prints a line on standard error at once, so that it also appears in a log being watched."""
    print(terminal.printable(text), file=sys.stderr, flush=True)


class Progress:
    """Shows the name, share done, rate, time left and a few numbers of a stage while it runs.

    The rate leaves out the two slowest updates, which usually compile programs; of two updates it
    leaves out one, and of one there is no rate.

    A context manager. On a terminal it redraws a bar in place; elsewhere, as in a log file, it
    prints a full line at most every `LINE_SECONDS` seconds. Both end with a line that gives the
    total time.

    Args:
      stage: the name of the stage, for example "rl".
      total: the number of units, including those already done.
      unit: the name of a unit, in the singular.
      initial: units done before this process, for example before a resume; they do not count
        towards the rate.
      stream: the output; standard error by default.
      clock: returns seconds that never decrease.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        unit: str = "step",
        initial: int = 0,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stage, self._total, self._unit, self._initial = stage, total, unit, initial
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._done = initial
        self._shown: dict[str, str] = {}
        self._start = self._last_line = clock()
        self._updates, self._last_update = 0, self._start
        self._slowest: list[tuple[float, int]] = []  # seconds and units of the two slowest updates
        self._bar: _Bar | None = None

    def __enter__(self) -> "Progress":
        self._start = self._last_line = self._last_update = self._clock()
        if self._stream.isatty():
            self._bar = _Bar(
                total=self._total,
                initial=self._initial,
                desc=self._stage,
                unit=self._unit,
                file=self._stream,
                dynamic_ncols=True,
                leave=False,
                bar_format=_BAR_FORMAT,
            )
        return self

    def update(self, n: int = 1, **shown: float | str) -> None:
        """Counts `n` more units; numbers in `shown` are displayed until they are replaced."""
        self._done += n
        now = self._clock()
        self._slowest = sorted([*self._slowest, (now - self._last_update, n)])[-2:]
        self._updates, self._last_update = self._updates + 1, now
        self._shown |= {name: _short(value) for name, value in shown.items()}
        if self._bar is not None:
            self._bar.own_rate = self._rate()
            self._bar.set_postfix_str(self._numbers(), refresh=False)
            self._bar.update(n)
        elif self._clock() - self._last_line >= LINE_SECONDS:
            self._last_line = self._clock()
            self._print(self._line(self._rate()))

    def say(self, text: str) -> None:
        """Prints a separate line without disturbing the bar."""
        text = terminal.printable(text)
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            self._print(text)

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        seconds = tqdm.format_interval(self._clock() - self._start)
        ending = "stopped after" if kind else "done in"
        whole = (self._done - self._initial) / max(self._clock() - self._start, 1e-9)
        self._print(f"{self._line(self._rate() or whole)} {ending} {seconds}")

    def _rate(self) -> float:
        """Units per second without the slowest updates; 0 if there are no others."""
        left_out = self._slowest[-2 if self._updates > 2 else -1 :]
        seconds = self._last_update - self._start - sum(x for x, _ in left_out)
        units = self._done - self._initial - sum(n for _, n in left_out)
        return units / max(seconds, 1e-9)

    def _line(self, rate: float) -> str:
        return tqdm.format_meter(
            n=self._done,
            total=self._total,
            # Not zero, which would be a divisor, before the clock has moved.
            elapsed=max(self._clock() - self._start, 1e-9),
            rate=rate,
            prefix=self._stage,
            unit=self._unit,
            initial=self._initial,
            bar_format=_FORMAT,
            postfix=self._numbers(),
        )

    def _numbers(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self._shown.items())

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class _Bar(tqdm):
    """A bar with the rate that it is told."""

    own_rate = 0.0

    @property
    def format_dict(self) -> dict[str, Any]:
        return super().format_dict | {"rate": self.own_rate}


def _short(value: Any) -> str:
    return str(value) if isinstance(value, (str, int)) else f"{float(value):.4g}"
