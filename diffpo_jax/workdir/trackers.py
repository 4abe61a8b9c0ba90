"""Where metrics go besides `metrics.jsonl`, if asked: TensorBoard, Weights & Biases, trackio.

A tracker has two methods: `write`, of the numbers of one step, and `close`.  It begins at its
first line, so that a command which only reads a run makes none.  A run that resumes goes on in the
same run of Weights & Biases and of trackio: its id stays in the workdir.  Steps between the
checkpoint and the kill are then there twice, which cannot be taken back as in `metrics.jsonl`.
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
    """What takes the lines.  Either method may raise anything; see `metrics.MetricsWriter`."""

    def write(self, stage: str, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def make(
    logging: LoggingConfig, root: pathlib.Path, configuration: Mapping[str, Any]
) -> list[Tracker]:
    """The trackers that are asked for; nothing is sent or written yet.

    Args:
      root: the workdir.
      configuration: of the run, for those that show it.

    Raises:
      UserError: a package is missing.
    """
    made: list[Tracker] = []
    if logging.tensorboard:
        made.append(TensorBoard(_package("tensorboardX", "tensorboard"), root / "tensorboard"))
    if logging.wandb:
        made.append(Wandb(_package("wandb", "wandb"), logging.wandb, root, configuration))
    if logging.trackio:
        made.append(Trackio(_package("trackio", "trackio"), logging.trackio, root, configuration))
    return made


class TensorBoard:
    """Events in tensorboard/STAGE."""

    def __init__(self, package: Any, directory: pathlib.Path):
        self._package, self._directory = package, directory
        self._events: dict[str, Any] = {}

    def write(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        if stage not in self._events:
            # A directory a stage: `purge_step` hides what a killed run wrote from this step on,
            # and it knows steps only, not stages.
            where = str(self._directory / stage)
            self._events[stage] = self._package.SummaryWriter(where, purge_step=step)
        for name, value in numbers.items():
            self._events[stage].add_scalar(name, value, step)
        self._events[stage].flush()

    def close(self) -> None:
        for events in self._events.values():
            events.close()
        self._events = {}


class Wandb:
    """A run of Weights & Biases; each stage has its own axis of steps."""

    def __init__(
        self, package: Any, project: str, root: pathlib.Path, configuration: Mapping[str, Any]
    ):
        self._package, self._project, self._root = package, project, root
        self._configuration, self._run, self._stages = configuration, None, set()

    def write(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        if self._run is None:
            self._run = self._package.init(
                project=self._project,
                id=run_id(self._root),
                name=self._root.name,
                resume="allow",
                dir=str(self._root),
                config=dict(self._configuration),
            )
        if stage not in self._stages:
            # Its own count of lines must never go back, as steps do from stage to stage.
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        self._run.log(
            {f"{stage}/{name}": value for name, value in numbers.items()} | {f"{stage}/step": step}
        )

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


class Trackio:
    """A run of trackio, which knows runs by their names."""

    def __init__(
        self, package: Any, project: str, root: pathlib.Path, configuration: Mapping[str, Any]
    ):
        self._package, self._project, self._root = package, project, root
        self._configuration, self._run = configuration, None

    def write(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        if self._run is None:
            self._run = self._package.init(
                project=self._project,
                name=f"{self._root.name}-{run_id(self._root)}",
                resume="allow",
                config=dict(self._configuration),
                embed=False,
            )
        self._run.log({f"{stage}/{name}": value for name, value in numbers.items()}, step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


def run_id(root: pathlib.Path) -> str:
    """The id of a workdir's run in the eyes of trackers, made once and kept there."""
    path = root / "trackers.json"
    if path.exists():
        return json.loads(path.read_text())["id"]
    new = uuid.uuid4().hex[:12]
    write_json(path, {"id": new})
    return new


def _package(name: str, field: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"config.logging.{field} needs the package {name}: pip install "
            f"'diffpo-jax[{field}]', or leave the field out."
        ) from error
