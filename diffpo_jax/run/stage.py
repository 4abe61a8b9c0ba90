"""What every training stage does around its steps: resume, log, save, and stop on a signal.

A stage enters `start`, loops over `Loop.steps`, and calls the other methods of `Loop` in each step:

    with stage.start(...) as loop:
        state = loop.state
        for number, batch in loop.steps():
            ...                          # train
            loop.check_finite(...)       # before anything of the step is kept
            loop.log(...)
            loop.save(...)
            loop.end_step(...)           # stops here after SIGTERM or Ctrl-C
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from diffpo_jax.arrays.types import TrainState
from diffpo_jax.config import Config, convert
from diffpo_jax.distributed import hosts, preemption
from diffpo_jax.run.setup import PRETRAIN, STAGES, Setup
from diffpo_jax.system.errors import Stopped, UserError
from diffpo_jax.system.progress import Progress, say
from diffpo_jax.workdir import checkpoints, digests, layout
from diffpo_jax.workdir.checkpoints import Checkpoints

# Metrics that are not finite because of nothing else in the step, by the beginnings of their names.
_CAUSES = "loss", "objective", "grad_norm", "update_ratio"
_NAMED = 3  # metrics named in a message


@dataclasses.dataclass
class Loop:
    """A stage while it trains; made by `start`."""

    setup: Setup
    name: str
    last: int  # number of the last step
    data: Any  # grain iterator
    saved: Checkpoints
    progress: Progress
    notice: preemption.Notice
    first: int  # step that was resumed from; 0 for a new stage
    state: TrainState  # at that step
    meta: dict[str, Any]  # what the checkpoint of that step holds besides; empty for a new stage
    written: float = dataclasses.field(default_factory=time.perf_counter)  # time of the last line
    stopping: bool = False  # whether SIGTERM or Ctrl-C came

    def steps(self) -> Iterator[tuple[int, Any]]:
        """The steps that are left: (number, batch)."""
        for number in range(self.first + 1, self.last + 1):
            yield number, next(self.data)

    def check_finite(self, number: int, values: Mapping[str, float], hint: str = "") -> None:
        """Raises `UserError` if a metric is not finite; a loss or gradient is named first."""
        bad = [name for name in values if not math.isfinite(values[name])]
        bad.sort(key=lambda name: (not name.startswith(_CAUSES), name))
        if bad:
            more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            pairs = ", ".join(f"{name}={values[name]}" for name in bad[:_NAMED])
            raise UserError(self._stopped(number, f"{pairs}{more}.", hint))

    @contextlib.contextmanager
    def explained(self, number: int) -> Iterator[None]:
        """Says in which step a mistake of the user's, such as a faulty reward, came to light."""
        try:
            yield
        except UserError as error:
            raise UserError(self._stopped(number, str(error))) from error

    def _stopped(self, number: int, fault: str, hint: str = "") -> str:
        last = self.saved.latest()
        none = last is None
        good = "There is no checkpoint yet in" if none else f"Last good checkpoint: step {last} of"
        text = (
            f"{self.name} step {number}: {fault} Stopped, and nothing of this step was saved. "
            f"{good} {self.saved.directory}."
        )
        return f"{text} {hint}" if hint else text

    def log(
        self,
        number: int,
        values: Mapping[str, float],
        times: Mapping[str, float] | None = None,
        due: bool = False,
    ) -> None:
        """Writes a line of metrics.jsonl if `due`, or if `config.logging.every` asks for it."""
        if not due and number % self.setup.config.logging.every and number != self.last:
            return
        now = time.perf_counter()
        # Seconds since the line before: those of all lines add up to the stage's.
        seconds = {"seconds": now - self.written}
        self.setup.writer.write(self.name, number, values, {**(times or {}), **seconds})
        self.written = now

    def save(
        self, number: int, state: TrainState, meta: dict[str, Any] | None = None, due: bool = False
    ) -> None:
        """Saves the step if `due`, if `config.checkpoint` asks for it, or after a signal.

        Raises:
          UserError: a checkpoint could not be written.
        """
        self.stopping = self.notice.given()
        due = due or self.stopping
        if self.saved.is_due(number, due):
            written = digests.take(self.setup.workdir) if hosts.is_first() else {}
            self.saved.save(number, state, self.data, {**(meta or {}), "written": written}, due=due)

    def end_step(self, number: int, **shown: float) -> None:
        """Shows numbers on the progress line; ends the run after a signal.

        Raises:
          Stopped: SIGTERM or Ctrl-C came; the step has been saved.
          UserError: its checkpoint could not be written.
        """
        self.progress.update(**shown)
        if self.stopping:
            self.saved.wait()
            raise Stopped(
                f"{self.name}: stopped at step {number} after {self.notice.name}; the same command "
                "resumes there."
            )


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
    made_by = json.loads(convert.to_json(setup.config))
    with Checkpoints(directory, setup.config.checkpoint, last, made_by) as saved:
        # 1. Take the newest whole checkpoint, or a fresh state.
        found = saved.restore_newest(shapes, data)
        if found is None:
            first, state, meta = None, fresh(), {}
        else:
            first, state, meta = found
            _check_made_by(saved, first, setup.config)
            if name == PRETRAIN and first < last:
                check_base(setup.workdir, last, first)
            say(f"{name}: resuming after step {first}")
            _name_changed(setup, meta.get("written", {}), first)

        # 2. Drop the metrics of later steps, and of later stages unless this one is complete.
        def keep(line: dict[str, Any]) -> bool:
            if line["stage"] not in STAGES:
                raise UserError(
                    f"{setup.workdir.metrics}: the stage {line['stage']!r:.40} is none of a run's "
                    f"({', '.join(STAGES)}). Remove its lines."
                )
            if line["stage"] == name:
                return first is not None and line["step"] <= first
            return first == last or STAGES.index(line["stage"]) < STAGES.index(name)

        setup.writer.cut_back(keep)
        # 3. Train.
        done = first or 0
        with Progress(name, last, initial=done) as progress, preemption.Notice() as notice:
            yield Loop(setup, name, last, data, saved, progress, notice, done, state, meta)
            saved.wait()  # before signals have their usual actions again


def check_base(workdir: layout.Workdir, last: int, found: int | None) -> None:
    """Raises `UserError` if RL went on from a base model that is not there any more.

    It is not trained again: on another machine it would not be quite the same.

    Args:
      found: the newest step that there is.
    """
    rl = checkpoints.latest_step(workdir.rl)
    if rl is not None and (found is None or found < last):
        raise UserError(
            f"{workdir.base} has no whole step {last}, the base model from which {workdir.rl} went "
            f"on to step {rl}. Put it back, or start over with --overwrite."
        )


def _name_changed(setup: Setup, written: digests.Digests, step: int) -> None:
    """Warns of lines and samples that are not what they were when a step was saved."""
    if hosts.is_first() and (names := digests.changed(setup.workdir, written)):
        say(
            f"warning: {setup.workdir.root}: {', '.join(names)} changed after step {step} was "
            "saved. What is trained does not depend on it; curves and counts in the report do."
        )


def _check_made_by(saved: Checkpoints, step: int, config: Config) -> None:
    """Raises `UserError` if a step was made with another configuration."""
    recorded = saved.made_by(step)
    if recorded is None:
        return
    if lines := convert.differences(convert.from_json(json.dumps(recorded)), config):
        raise UserError(
            f"step {step} of {saved.directory} was made with another configuration "
            f"({'; '.join(lines)}). Choose another --workdir, or start over with --overwrite."
        )
