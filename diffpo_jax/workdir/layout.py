"""The directory of a run: the paths in it, and whether a run may use it.

config.json  inputs.json  run_info.json  digests.json  metrics.jsonl  checkpoints/{base,rl}/
samples/  points/  report/  evaluations/NAME/  profile/  data/  .lock, and for trackers:
trackers.json  tensorboard/  wandb/
"""

import pathlib
import shutil
from collections.abc import Iterator

from diffpo_jax.config import Config, convert
from diffpo_jax.system import durable, files, reading
from diffpo_jax.system.errors import UserError

# What a run writes; `--overwrite` removes these and nothing else.
CONTENT = (
    "config.json",
    "inputs.json",
    "run_info.json",
    "digests.json",
    "metrics.jsonl",
    "trackers.json",
    "checkpoints",
    "samples",
    "report",
    "points",
    "evaluations",
    "profile",
    "tensorboard",
    "wandb",
)


_OVERWRITTEN = ".overwritten"  # what is about to be removed


class Workdir:
    """The paths of a run. `open_workdir` checks the directory as well."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.config = root / "config.json"
        self.inputs = root / "inputs.json"
        self.run_info = root / "run_info.json"
        self.digests = root / "digests.json"
        self.metrics = root / "metrics.jsonl"
        self.base = root / "checkpoints" / "base"
        self.rl = root / "checkpoints" / "rl"
        self.samples = root / "samples"
        self.report = root / "report"
        self.points = root / "points"
        self.evaluations = root / "evaluations"
        self.profile = root / "profile"
        self.data = root / "data"


def read_config(paths: Workdir) -> Config:
    """Reads the configuration of the run in a workdir.

    Raises:
      UserError: the workdir holds no run, or the file is damaged.
    """
    try:
        text = reading.read_text(paths.config)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{paths.root} holds no run: there is no {paths.config.name}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{paths.config} cannot be read: {error}.") from error
    try:
        return convert.from_json(text)
    except (UserError, ValueError) as error:
        if '"model_type"' in text:
            raise UserError(
                f"{paths.root} holds published weights, and no run: name it in "
                "config.model.weights instead."
            ) from error
        fault = str(error).rstrip(".")
        raise UserError(f"{paths.config} is not the configuration of a run: {fault}.") from error


def origins(config: Config) -> Iterator[Config]:
    """The configurations of the runs that a base model comes from, one before the other.

    Raises:
      UserError: `config.init_from` holds no run, or leads back to a run that it came from.
    """
    seen: list[pathlib.Path] = []
    while config.init_from:
        root = pathlib.Path(config.init_from)
        config = read_config(Workdir(root))
        if root.resolve() in seen:
            raise UserError(
                f"config.init_from={root} leads in a circle: the base model of that run comes from "
                "the run itself. Correct the config.json of the last run that you changed."
            )
        seen.append(root.resolve())
        yield config


def open_workdir(path: str, config: Config, *, overwrite: bool) -> Workdir:
    """Creates the workdir of a run, or reopens it if it holds a run of this configuration.

    The configuration is not written yet (`record`): a start that fails leaves the workdir free.

    Args:
      overwrite: removes the run that the directory holds first.

    Raises:
      UserError: the directory cannot be written, or holds a run of another configuration.
    """
    check_path(path)
    return open_paths(Workdir(pathlib.Path(path)), config, overwrite=overwrite)


def open_paths(workdir: Workdir, config: Config, *, overwrite: bool = False) -> Workdir:
    """`open_workdir` of paths, which need not all be in one directory."""
    try:
        durable.make_directory(workdir.root)
        if overwrite:
            _remove_run(workdir.root)
        check_same_run(workdir, config)
        durable.make_directory(workdir.samples)
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir {workdir.root}: {error.strerror or error} "
            f"({error.filename}). Choose another with --workdir."
        ) from error
    return workdir


def record(workdir: Workdir, config: Config) -> None:
    """Writes the configuration of a run that begins, or goes on: from now on the workdir is its."""
    new = convert.to_json(config)
    # Of several processes the first has written it already.
    if not workdir.config.exists() or reading.read_text(workdir.config) != new:
        files.write_atomic(workdir.config, new)


def check_path(path: str) -> None:
    """Raises `UserError` for a URL such as gs://..., which would become a local directory."""
    if "://" in path:
        raise UserError(
            f"--workdir={path} is not a directory. Mount the bucket and give the path of the "
            "mount, as the scripts in launch/ do."
        )


def check_same_run(workdir: Workdir, config: Config) -> None:
    """Raises `UserError` if the workdir holds a run of another configuration."""
    if not workdir.config.exists():
        return
    if lines := convert.differences(read_config(workdir), config):
        raise UserError(
            f"{workdir.root} holds a run of another configuration ({'; '.join(lines)}). "
            "Choose another --workdir, or start over with --overwrite."
        )


def _remove_run(root: pathlib.Path) -> None:
    """Removes a run: its checkpoints first, in one move, and its configuration last.

    A process that is killed in between, or a power cut, leaves no checkpoints that another
    configuration might take for its own.
    """
    away = root / _OVERWRITTEN
    shutil.rmtree(away, ignore_errors=True)  # left by a process that was killed
    away.mkdir()
    for name in sorted(CONTENT, key=lambda name: (name != "checkpoints", name == "config.json")):
        if (root / name).exists():
            durable.rename(root / name, away / name)
    shutil.rmtree(away)
