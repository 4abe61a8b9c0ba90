"""What every training stage does around its steps: resume, log, save, and stop on SIGTERM.

A stage enters `start`, loops over `Loop.steps`, and calls the other methods of `Loop` in each step:

    with stage.start(...) as loop:
        state = loop.state
        for number, batch in loop.steps():
            ...                          # train
            loop.check_finite(...)       # before anything of the step is kept
            loop.log(...)
            loop.save(...)
            loop.end_step(...)           # stops here after SIGTERM
"""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from diffpo_jax.arrays.types import TrainState
from diffpo_jax.distributed import preemption
from diffpo_jax.run.setup import STAGES, Setup
from diffpo_jax.system.errors import Stopped, UserError
from diffpo_jax.system.progress import Progress, say
from diffpo_jax.workdir.checkpoints import Checkpoints


class Loop:
    """A stage while it trains.

    Attributes:
      first: the step that was resumed from; 0 for a new stage.
      state: the state at that step.
      meta: what the checkpoint of that step holds besides; empty for a new stage.
      saved: the checkpoints of the stage.
      progress: the progress line.
    """

    def __init__(
        self,
        setup: Setup,
        name: str,
        last: int,
        data: Any,
        saved: Checkpoints,
        progress: Progress,
        notice: preemption.Notice,
        resumed: tuple[int, TrainState, dict[str, Any]],
    ):
        self.first, self.state, self.meta = resumed
        self.saved, self.progress = saved, progress
        self._name, self._last, self._data, self._notice = name, last, data, notice
        self._writer, self._log_every = setup.writer, setup.config.logging.every
        self._written = time.perf_counter()
        self._told = False

    def steps(self) -> Iterator[tuple[int, Any]]:
        """The steps that are left: (number, batch)."""
        for number in range(self.first + 1, self._last + 1):
            yield number, next(self._data)

    def is_last(self, number: int) -> bool:
        """Whether a step is the last of the stage."""
        return number == self._last

    def check_finite(
        self, number: int, values: Mapping[str, float], watched: tuple[str, ...], hint: str = ""
    ) -> None:
        """Raises `UserError` if a metric whose name begins with one of `watched` is not finite."""
        names = [name for name in values if name.startswith(watched)]
        bad = [f"{name}={values[name]}" for name in names if not math.isfinite(values[name])]
        if bad:
            raise UserError(
                f"{self._name} step {number}: {', '.join(bad)}; stopped, and nothing of this step "
                f"was saved. Last good checkpoint: step {self.saved.latest()} of "
                f"{self.saved.directory}.{hint and ' '}{hint}"
            )

    def log(
        self,
        number: int,
        values: Mapping[str, float],
        times: Mapping[str, float] | None = None,
        due: bool = False,
    ) -> None:
        """Writes a line of metrics.jsonl if `due`, or if `config.logging.every` asks for it."""
        if not due and number % self._log_every and not self.is_last(number):
            return
        now = time.perf_counter()
        # Seconds since the line before: those of all lines add up to the stage's.
        seconds = {"seconds": now - self._written}
        self._writer.write(self._name, number, values, {**(times or {}), **seconds})
        self._written = now

    def save(
        self, number: int, state: TrainState, meta: dict[str, Any] | None = None, due: bool = False
    ) -> None:
        """Saves the step if `due`, if `config.checkpoint` asks for it, or after SIGTERM.

        Raises:
          UserError: a checkpoint could not be written.
        """
        self._told = self._notice.given()
        self.saved.save(number, state, self._data, meta or {}, due=due or self._told)

    def end_step(self, number: int, **shown: float) -> None:
        """Shows numbers on the progress line; ends the run after SIGTERM.

        Raises:
          Stopped: SIGTERM came; the step has been saved.
          UserError: its checkpoint could not be written.
        """
        if self._told:
            self.saved.wait()
            raise Stopped(
                f"{self._name}: stopped at step {number} after SIGTERM; the same command resumes "
                "there."
            )
        self.progress.update(**shown)


@contextlib.contextmanager
def start(
    setup: Setup,
    name: str,
    last: int,
    directory: pathlib.Path,
    data: Any,
    shapes: TrainState,
    fresh: Callable[[], TrainState],
) -> Iterator[Loop]:
    """Resumes or starts a stage; at the end, waits until its last checkpoint is written.

    Args:
      name: an entry of `setup.STAGES`.
      last: the number of the last step.
      directory: of the stage's checkpoints.
      data: a grain iterator; it is set to the position of the checkpoint.
      shapes: the state's shapes with shardings.
      fresh: makes the state at step 0; only called if there is no checkpoint.

    Raises:
      UserError: a checkpoint cannot be read or written.
    """
    with Checkpoints(directory, setup.config.checkpoint, last) as saved:
        resumed = _resume(setup, saved, shapes, fresh, data, name, last)
        with (
            Progress(name, last, initial=resumed[0]) as progress,
            preemption.Notice() as notice,
        ):
            yield Loop(setup, name, last, data, saved, progress, notice, resumed)
            saved.wait()  # before SIGTERM has its default action again


def _resume(
    setup: Setup,
    saved: Checkpoints,
    shapes: TrainState,
    fresh: Callable[[], TrainState],
    data: Any,
    name: str,
    last: int,
) -> tuple[int, TrainState, dict[str, Any]]:
    """The newest whole checkpoint, or a fresh state; drops the metrics of later steps."""
    first, meta = saved.latest(), {}
    if first is None:
        state = fresh()
    else:
        state, meta = saved.restore(first, shapes, data)
        say(f"{name}: resuming after step {first}")

    def keep(line: dict[str, Any]) -> bool:
        if line["stage"] == name:
            return first is not None and line["step"] <= first
        # Lines of later stages count only if this stage is complete.
        return first == last or STAGES.index(line["stage"]) < STAGES.index(name)

    setup.writer.cut_back(keep)
    return first or 0, state, meta
