"""Checkpoints by orbax: parameters, optimiser, data iterator and meta in one atomic step.

A step is written to a temporary directory, synced and then renamed, so a kill, a full disk or a
power cut leaves all earlier steps whole.  Each has a record of the configuration that made it and
of the digests of its parts, so that no reader takes a damaged step for a whole one, or that of
another run for its own.  Steps of older versions have none, and are read without it.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from diffpo_jax.arrays.fingerprint import bit_sums
from diffpo_jax.arrays.paths import path_name
from diffpo_jax.arrays.types import Params, TrainState
from diffpo_jax.config import CheckpointConfig
from diffpo_jax.system import durable
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.progress import say
from diffpo_jax.workdir.synced_steps import SyncedPath

_LONGEST = 300  # characters of a library's error in a message


class Checkpoints:
    """The checkpoints of one stage in one directory. Leaving its `with` block waits for writes."""

    def __init__(
        self,
        directory: pathlib.Path,
        config: CheckpointConfig,
        last_step: int,
        made_by: dict[str, Any] | None = None,
    ):
        """
        Args:
          last_step: the last step of the stage, which is always saved.
          made_by: the configuration of the run, a JSON-like value that is kept with each step.
        """
        self.directory = directory.absolute()
        self._made_by = made_by
        self._every, self._last = config.every, last_step
        keep: list[Any] = [checkpoint_managers.LatestN(config.keep)]
        if config.keep_every:
            keep.append(checkpoint_managers.EveryNSteps(config.keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
            # `save` decides which steps are saved, the same on every host.
            save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
            temporary_path_class=SyncedPath,
            # Made by a thread, a directory that cannot be made is waited for, for 20 minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        durable.make_directory(self.directory)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, error_type: Any, error: Any, traceback: Any) -> None:
        if error is None:
            self.wait()
            self._manager.close()
            return
        try:
            self._manager.close()
        except Exception as later:  # of a save in the background; `error` says what came first
            say(f"note: a checkpoint that was being saved failed too: {_reason(later)}.")

    def latest(self) -> int | None:
        """The newest whole step; None if there is none."""
        return self._manager.latest_step()

    def is_due(self, step: int, due: bool = False) -> bool:
        """Whether `save` saves a step."""
        return due or step == self._last or step % self._every == 0

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
        if not self.is_due(step, due):
            return
        optimizer = {"step": state.step, "state": state.opt_state}
        digests = _digests(state.params, optimizer, data.get_state(), meta)
        items = {
            "params": ocp.args.StandardSave(state.params),
            "opt": ocp.args.StandardSave(optimizer),
            "data": grain.checkpoint.CheckpointSave(data),
            "meta": ocp.args.JsonSave(meta),
            "record": ocp.args.JsonSave({"config": self._made_by, "digests": digests}),
        }
        with self._explained(f"the checkpoint of step {step}"):
            self._manager.save(step, args=ocp.args.Composite(**items))

    def made_by(self, step: int) -> dict[str, Any] | None:
        """The configuration that made a step; None if an older version did.

        Raises `UserError` if the step is damaged.
        """
        return _read_record(self.directory / str(step)).get("config")

    def restore_newest(
        self, state: TrainState, data: Any
    ) -> tuple[int, TrainState, dict[str, Any]] | None:
        """Restores the newest whole step as (step, state, meta); None if there is no step.

        Damaged steps after it are set aside under another name, and named.  If no step is whole,
        all stay where they are.

        Raises:
          UserError: none of the steps can be read as such a state.
        """
        damaged: dict[int, UserError] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found, meta = self.restore(step, state, data)
            except UserError as error:
                damaged[step] = error
                continue
            for number, error in damaged.items():
                aside = self.directory / f"{number}.damaged"
                # Of several processes one is the first.
                with contextlib.suppress(FileNotFoundError):
                    (self.directory / str(number)).rename(aside)
                say(f"warning: {error} It is now {aside}; going on from step {step}.")
            if damaged:
                self._manager.reload()
            return step, found, meta
        if damaged:
            raise damaged[max(damaged)]
        return None

    def restore(self, step: int, state: TrainState, data: Any) -> tuple[TrainState, dict[str, Any]]:
        """Restores the state and meta of a step, and sets `data` to its position.

        Args:
          state: arrays or shapes with the shardings to restore to. Shardings and the number of
            processes may differ from those at the time of saving.

        Raises:
          UserError: the checkpoint cannot be read as such a state, or is damaged.
        """
        abstract = jax.tree.map(_abstract, state)
        items = {
            "params": ocp.args.StandardRestore(abstract.params),
            "opt": ocp.args.StandardRestore({"step": abstract.step, "state": abstract.opt_state}),
            "meta": ocp.args.JsonRestore(),
        }
        try:
            out = self._manager.restore(step, args=ocp.args.Composite(**items))
            position = _data_state(self.directory / str(step) / "data")
            data.set_state(position)
        except Exception as error:
            reason = _reason(error)
            raise UserError(f"cannot restore step {step} of {self.directory}: {reason}.") from error
        opt = out["opt"]
        digests = _digests(out["params"], opt, position, out["meta"])
        _check_digests(digests, self.directory / str(step))
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
            reason = _reason(error)
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
        try:
            restored = reader.restore(path, args=ocp.args.StandardRestore(abstract))
        except Exception as error:
            reason = _reason(error)
            raise UserError(f"cannot read the checkpoint {path}: {reason}.") from error
    _check_digests({"params": _array_digests(restored)}, path.parent)
    return restored


def latest_step(directory: pathlib.Path) -> int | None:
    """The newest whole step in a directory of checkpoints; None if there is none."""
    if not directory.is_dir():
        return None
    # The directory of a step gets its final name once all of it is written.
    return max((int(p.name) for p in directory.iterdir() if _is_step(p)), default=None)


def _is_step(path: pathlib.Path) -> bool:
    """Whether a path has the name that a step gets; int() also reads digits of other scripts."""
    name = path.name
    return name.isascii() and name.isdigit() and name == str(int(name)) and path.is_dir()


def _data_state(directory: pathlib.Path) -> dict[str, Any]:
    """The position of a grain iterator, as grain saved it: a file for each process.

    Every process has the whole batch, so all files are equal. grain itself would look for this
    process's file among as many as there are processes now, and refuse another number of them.
    """
    files = sorted(directory.glob("process_*-of-*.json"))
    if not files:
        raise FileNotFoundError(f"no file process_*-of-*.json in {directory}")
    return json.loads(files[0].read_text("utf-8"))


def _reason(error: Exception) -> str:
    """The first line of an error, without the places in the source that tensorstore adds."""
    line = (str(error).strip() or repr(error)).splitlines()[0]
    if "No space left on device" in line:
        return "no space left on the device"
    return line.partition(" [source locations")[0].rstrip(".")[:_LONGEST]


def _digests(params: Any, optimizer: Any, position: Any, meta: Any) -> dict[str, dict[str, str]]:
    """The digests of each part of a step: of every array, or of the whole."""

    def of_json(value: Any) -> dict[str, str]:
        text = json.dumps(value, sort_keys=True)
        # As it is read again: keys are texts, and tuples lists.
        text = json.dumps(json.loads(text), sort_keys=True)
        return {"all": hashlib.sha256(text.encode()).hexdigest()}

    return {
        "params": _array_digests(params),
        "opt": _array_digests(optimizer),
        "data": of_json(position),
        "meta": of_json(meta),
    }


def _array_digests(tree: Any) -> dict[str, str]:
    """The type and the sum of the bits of each array, by its path."""
    dtypes = {path_name(k): x.dtype for k, x in jax.tree_util.tree_leaves_with_path(tree)}
    return {name: f"{dtypes[name]} {total:08x}" for name, total in bit_sums(tree).items()}


def _read_record(step: pathlib.Path) -> dict[str, Any]:
    """The record of a step's directory; empty if an older version wrote the step."""
    folder = step / "record"
    if not folder.is_dir():
        return {}
    try:
        record = json.loads((folder / "metadata").read_text("utf-8"))
        return {"config": record["config"], "digests": dict(record["digests"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"step {step.name} of {step.parent} is damaged: its record is.") from error


def _check_digests(found: dict[str, dict[str, str]], step: pathlib.Path) -> None:
    """Raises `UserError` if parts of a step are not what was saved.

    Arrays that are read as another type, as the base of an adapter may be, cannot be compared.
    """
    saved = _read_record(step).get("digests", found)

    def differs(part: str, name: str) -> bool:
        now, then = found[part].get(name, ""), saved.get(part, {}).get(name, "")
        cast = " " in now and " " in then and now.split()[0] != then.split()[0]
        return now != then and not cast

    names = [(part, x) for part in found for x in {**found[part], **saved.get(part, {})}]
    if wrong := [f"{part}/{name}" for part, name in names if differs(part, name)]:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"step {step.name} of {step.parent} is damaged: {wrong[0]}{more} changed after it was "
            "saved."
        )


def _check_same_shapes(saved: Any, wanted: Any, path: pathlib.Path) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {path_name(key): tuple(x.shape) for key, x in leaves}

    old, new = shapes(saved), shapes(wanted)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise UserError(
                f"the checkpoint {path} does not fit config.model, mode and lora: {name} is "
                f"{old.get(name, 'missing')} there and {new.get(name, 'missing')} here."
            )


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
