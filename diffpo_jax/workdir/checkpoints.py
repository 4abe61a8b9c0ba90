"""Checkpoints by orbax: parameters, optimiser, data iterator and meta in one atomic step.

A step is written to a temporary directory and then renamed, so a kill or a full disk leaves all
earlier steps whole.
"""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from diffpo_jax.arrays.types import Params, TrainState
from diffpo_jax.config import CheckpointConfig
from diffpo_jax.system.errors import UserError


class Checkpoints:
    """The checkpoints of one stage in one directory. Leaving its `with` block waits for writes."""

    def __init__(self, directory: pathlib.Path, config: CheckpointConfig, last_step: int):
        """
        Args:
          last_step: the last step of the stage, which is always saved.
        """
        self.directory = directory.absolute()
        self._every, self._last = config.every, last_step
        keep: list[Any] = [checkpoint_managers.LatestN(config.keep)]
        if config.keep_every:
            keep.append(checkpoint_managers.EveryNSteps(config.keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
            # `save` decides which steps are saved, the same on every host.
            save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, error_type: Any, error: Any, traceback: Any) -> None:
        if error is None:
            self.wait()
        self._manager.close()

    def latest(self) -> int | None:
        """The newest whole step; None if there is none."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: TrainState, data: Any, meta: dict[str, Any], due: bool = False
    ) -> None:
        """Saves the step if it is due; writing continues during the next steps.

        Args:
          data: a grain iterator, whose position is saved.
          meta: a JSON-like value.
          due: saves the step whatever its number.

        Raises:
          UserError: this save or the one before it failed, for example for lack of space.
        """
        if step % self._every and step != self._last and not due:
            return
        items = {
            "params": ocp.args.StandardSave(state.params),
            "opt": ocp.args.StandardSave({"step": state.step, "state": state.opt_state}),
            "data": grain.checkpoint.CheckpointSave(data),
            "meta": ocp.args.JsonSave(meta),
        }
        with self._explained(f"the checkpoint of step {step}"):
            self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, step: int, state: TrainState, data: Any) -> tuple[TrainState, dict[str, Any]]:
        """Restores the state and meta of a step, and sets `data` to its position.

        Args:
          state: arrays or shapes with the shardings to restore to. Shardings and the number of
            processes may differ from those at the time of saving.

        Raises:
          UserError: the checkpoint cannot be read as such a state.
        """
        abstract = jax.tree.map(_abstract, state)
        items = {
            "params": ocp.args.StandardRestore(abstract.params),
            "opt": ocp.args.StandardRestore({"step": abstract.step, "state": abstract.opt_state}),
            "meta": ocp.args.JsonRestore(),
        }
        try:
            out = self._manager.restore(step, args=ocp.args.Composite(**items))
            data.set_state(_data_state(self.directory / str(step) / "data"))
        except Exception as error:
            raise UserError(f"cannot restore step {step} of {self.directory}: {error}") from error
        opt = out["opt"]
        return TrainState(opt["step"], out["params"], opt["state"]), out["meta"]

    def wait(self) -> None:
        """Waits until everything saved is on disk. Raises `UserError` like `save`."""
        with self._explained("a checkpoint"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turns a failed save into a `UserError` that names the last good checkpoint."""
        try:
            yield
        except Exception as error:
            last = latest_step(self.directory)
            good = (
                "there is none before it" if last is None else f"step {last} is the last good one"
            )
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise UserError(
                f"saving {what} to {self.directory} failed: {reason}; {good}. "
                "Make room and start the same command again: it resumes there."
            ) from error


def restore_params(directory: pathlib.Path, params: Params, step: int | None = None) -> Params:
    """Restores the parameters of the newest step in a directory of checkpoints.

    Args:
      params: arrays or shapes with the shardings to restore to.
      step: the last step of a stage that must be complete; None accepts any step.

    Raises:
      UserError: there is no checkpoint, its shapes differ, or the stage is not complete.
    """
    directory = directory.absolute()
    if not directory.is_dir():
        raise UserError(f"no checkpoints in {directory}: it is not a directory.")
    latest = latest_step(directory)
    if latest is None:
        raise UserError(f"no whole checkpoint in {directory}.")
    if step is not None and latest < step:
        raise UserError(
            f"{directory} has only reached step {latest} of {step}. Run the command of that run "
            "again first; it resumes there."
        )
    path = directory / str(latest) / "params"
    # The handler alone: a checkpointer warns that an item of a step has no metadata of a whole one.
    with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
        try:
            saved = reader.metadata(path).tree
        except Exception as error:
            raise UserError(f"cannot read the checkpoint {path}: {error}") from error
        _check_same_shapes(saved, params, path)
        abstract = jax.tree.map(_abstract, params)
        return reader.restore(path, args=ocp.args.StandardRestore(abstract))


def latest_step(directory: pathlib.Path) -> int | None:
    """The newest whole step in a directory of checkpoints; None if there is none."""
    if not directory.is_dir():
        return None
    # The directory of a step gets its final name once all of it is written.
    return max((int(p.name) for p in directory.iterdir() if p.name.isdigit()), default=None)


def _data_state(directory: pathlib.Path) -> dict[str, Any]:
    """The position of a grain iterator, as grain saved it: a file for each process.

    Every process has the whole batch, so all files are equal. grain itself would look for this
    process's file among as many as there are processes now, and refuse another number of them.
    """
    files = sorted(directory.glob("process_*-of-*.json"))
    if not files:
        raise FileNotFoundError(f"no file process_*-of-*.json in {directory}")
    return json.loads(files[0].read_text("utf-8"))


def _check_same_shapes(saved: Any, wanted: Any, path: pathlib.Path) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        keys = jax.tree_util.keystr
        return {keys(key, simple=True, separator="/"): tuple(x.shape) for key, x in leaves}

    old, new = shapes(saved), shapes(wanted)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise UserError(
                f"the checkpoint {path} does not fit config.model, mode and lora: {name} is "
                f"{old.get(name, 'missing')} there and {new.get(name, 'missing')} here."
            )


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
