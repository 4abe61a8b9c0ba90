"""Optional destinations of metrics beside `metrics.jsonl`: TensorBoard, Weights & Biases, trackio.

A tracker starts with its first line, so a command that only reads a run starts none. A resumed run
continues the same run of Weights & Biases and of trackio, whose id is kept in the workdir. The
steps between the checkpoint and the kill then appear twice there: unlike lines of `metrics.jsonl`,
they cannot be removed.
"""

import importlib
import json
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from diffpo_jax.config import LoggingConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.files import write_json


class Tracker(Protocol):
    """Takes lines of metrics. Both methods may raise anything; see `metrics.MetricsWriter`."""

    name: str  # for messages

    def write(self, stage: str, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def make(
    logging: LoggingConfig, root: pathlib.Path, configuration: Mapping[str, Any]
) -> list[Tracker]:
    """The trackers that the configuration asks for; none has written or sent anything yet.

    Args:
      root: the workdir.
      configuration: that of the run, for trackers that display it.

    Raises:
      UserError: a package is missing.
    """
    made: list[Tracker] = []
    if logging.tensorboard:
        made.append(TensorBoard(_package("tensorboardX", "tensorboard"), root / "tensorboard"))
    for name, project in (("wandb", logging.wandb), ("trackio", logging.trackio)):
        if project:
            made.append(RunTracker(name, _package(name, name), project, root, configuration))
    return made


class TensorBoard:
    """Writes event files to tensorboard/STAGE."""

    name = "TensorBoard"

    def __init__(self, package: Any, directory: pathlib.Path):
        self._package, self._directory = package, directory
        self._events: dict[str, Any] = {}

    def write(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        if stage not in self._events:
            # `purge_step` hides what a killed run wrote from this step on. It knows steps but not
            # stages, so each stage has a directory of its own.
            directory = str(self._directory / stage)
            self._events[stage] = self._package.SummaryWriter(directory, purge_step=step)
        for name, value in numbers.items():
            self._events[stage].add_scalar(name, value, step)
        self._events[stage].flush()

    def close(self) -> None:
        for events in self._events.values():
            events.close()
        self._events = {}


class RunTracker:
    """Sends metrics to a run of wandb or of trackio, whose packages share one interface.

    They differ in two ways. wandb knows runs by their ids and trackio by their names; and in wandb
    each stage gets its own axis of steps, as wandb's own count must never decrease.
    """

    def __init__(
        self,
        name: str,
        package: Any,
        project: str,
        root: pathlib.Path,
        configuration: Mapping[str, Any],
    ):
        self.name = name
        self._package, self._project, self._root = package, project, root
        self._configuration = configuration
        self._run: Any = None
        self._stages: set[str] = set()

    def write(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        if self._run is None:
            self._run = self._start()
        values = {f"{stage}/{name}": value for name, value in numbers.items()}
        if self.name == "trackio":
            self._run.log(values, step=step)
            return
        if stage not in self._stages:
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        self._run.log(values | {f"{stage}/step": step})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _start(self) -> Any:
        root, id_ = self._root, run_id(self._root)
        own = {"name": root.name, "id": id_, "dir": str(root)}
        if self.name == "trackio":
            own = {"name": f"{root.name}-{id_}", "embed": False}
        config = dict(self._configuration)
        return self._package.init(project=self._project, resume="allow", config=config, **own)


def run_id(root: pathlib.Path) -> str:
    """The id of a workdir's run for trackers, created once and kept in trackers.json.

    Raises:
      UserError: the file is damaged.
    """
    path = root / "trackers.json"
    if path.exists():
        try:
            return json.loads(path.read_text("utf-8"))["id"]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} has no id of a run ({error}). Delete it to begin a new one there."
            ) from error
    new = uuid.uuid4().hex[:12]
    write_json(path, {"id": new})
    return new


def _package(name: str, field: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"config.logging.{field} needs the package {name}: pip install -e '.[{field}]' in this "
            "checkout, or leave the field empty."
        ) from error
