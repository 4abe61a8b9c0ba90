"""The grid of a study: every arm with every seed on every task.

Arms of one task and seed start from one base model, which is a separate job. The name of a job's
directory is a hash of what the job computes, so that studies with the same store share their runs.
"""

import dataclasses
import hashlib
import json
import pathlib
import shlex
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from diffpo_jax.config import Config, GridConfig, check, convert, values
from diffpo_jax.system.errors import UserError

# The sections and fields that determine the base model; the others only matter after it.
_BASE = ("seed", "task", "tokenizer", "model", "lora", "pretrain")
_BASE_FIELDS = ("sampler.prompt_length", "sampler.length")
# The word of an arm that names presets of the task's config file: preset=lightning.
_PRESET = "preset="
# The sections that change no number of a run.
_FREE = ("mesh", "logging", "checkpoint")


class Job(NamedTuple):
    """A process of a study.

    Attributes:
      id: the name of its directory in the store, a hash of its configuration.
      kind: "base" for a base model, or "run".
      arm: the label of its arm; "base" for a base model.
      flags: the flags of `python -m diffpo_jax.main`, without --workdir.
      needs: the id of the base model that it starts from; "" if it makes its own.
    """

    id: str
    kind: str
    task: str
    arm: str
    seed: int
    flags: tuple[str, ...]
    needs: str

    @property
    def name(self) -> str:
        """The name in messages, for example "sudoku d1 seed 0"."""
        return f"{self.task} {self.arm} seed {self.seed}"


def arms(config: GridConfig) -> dict[str, tuple[str, ...]]:
    """The overrides of every arm by its label; the common ones come before its own.

    Raises:
      UserError: an arm has no label, or the label of another; its words cannot be split; the
        reference is not an arm.
    """
    result: dict[str, tuple[str, ...]] = {}
    for text in config.arms:
        label, colon, words = text.partition(":")
        label = label.strip()
        if not colon or not label or label in result:
            raise UserError(
                f"config.grid.arms: {text!r} must be 'LABEL: field=value ...' with a unique label."
            )
        try:
            own = shlex.split(words)
        except ValueError as error:
            raise UserError(f"config.grid.arms: {text!r}: {error}.") from error
        result[label] = (*config.common, *own)
    if config.reference and config.reference not in result:
        raise UserError(
            f"config.grid.reference={config.reference!r} is not an arm. The arms are: "
            f"{', '.join(result)}."
        )
    return result


def retitle(config: GridConfig, changed: Collection[str]) -> GridConfig:
    """Returns a grid that is titled by its arms, if these were changed and the title was not.

    Args:
      changed: the fields that the command line sets, such as "grid.arms".
    """
    if "grid.arms" not in changed or "grid.title" in changed:
        return config
    return dataclasses.replace(config, title=f"Comparison of {', '.join(arms(config))}")


def task_name(spec: str) -> str:
    """The name of a task in messages: its config file's, with the presets if there are any."""
    path, _, preset = spec.partition(":")
    stem = pathlib.PurePath(path).stem
    return f"{stem}:{preset}" if preset else stem


def jobs(config: GridConfig, store: str) -> list[Job]:
    """All jobs of a grid, each once, with base models before the runs that need them.

    Args:
      store: the directory of the runs, as the processes see it.

    Raises:
      UserError: a field or value of an arm is wrong; two arms are the same run.
    """
    result: dict[str, Job] = {}
    for spec in config.tasks:
        for seed in config.seeds:
            labels: dict[str, str] = {}
            for label, overrides in arms(config).items():
                words = (*overrides, f"seed={seed}", f"task.data_dir={store}/data")
                for job in _arm_jobs(spec, label, seed, words, store):
                    if job.kind == "run" and job.id in labels:
                        raise UserError(
                            f"config.grid.arms: {labels[job.id]!r} and {label!r} are the same run "
                            f"of {spec}."
                        )
                    if job.kind == "run":
                        labels[job.id] = label
                    result.setdefault(job.id, job)
    return sorted(result.values(), key=lambda job: job.kind != "base")


def _arm_jobs(spec: str, label: str, seed: int, overrides: Sequence[str], store: str) -> list[Job]:
    """The run of one arm and seed, after its base model if that is a separate job."""
    name, spec = task_name(spec), _with_presets(spec, overrides)
    overrides = tuple(word for word in overrides if not word.startswith(_PRESET))
    try:
        config = convert.from_file(spec, overrides)
        check.check_training(config)
    except UserError as error:
        raise UserError(f"{name}, arm {label!r}: {error}") from error
    result, needs = [], ""
    if config.pretrain.steps and not config.init_from:
        words = tuple(w for w in overrides if _affects_base(w))
        base = convert.from_file(spec, words)
        needs = _id("base", _base_values(base))
        result.append(Job(needs, "base", name, "base", seed, _flags(spec, words), ""))
        overrides = (*overrides, f"init_from={store}/{needs}")
    id_ = _id("run", _values(config) | {"base": needs})
    result.append(Job(id_, "run", name, label, seed, _flags(spec, overrides), needs))
    return result


def _with_presets(spec: str, overrides: Sequence[str]) -> str:
    """A task's config file with its presets, and behind them those of an arm."""
    own = [word.removeprefix(_PRESET) for word in overrides if word.startswith(_PRESET)]
    path, _, presets = spec.partition(":")
    return f"{path}:{','.join([presets or 'default', *own])}" if own else spec


def _affects_base(override: str) -> bool:
    """Whether an override determines the base model."""
    field = override.partition("=")[0]
    return field.partition(".")[0] in _BASE or field in _BASE_FIELDS


def _flags(spec: str, overrides: Sequence[str]) -> tuple[str, ...]:
    # As on a command line, the last of several values of a field counts.
    last = {word.partition("=")[0]: word for word in overrides}
    return (f"--config={spec}", *(f"--config.{word}" for word in last.values()))


def _values(config: Config) -> dict[str, Any]:
    """The fields that determine a run's numbers, as older versions wrote them: hashes stay."""
    decisive = values.former_values(config)
    for name in _FREE:
        del decisive[name]
    del decisive["task"]["data_dir"]
    return decisive


def _base_values(config: Config) -> dict[str, Any]:
    decisive = _values(config)
    lengths = {name: decisive["sampler"][name] for name in ("prompt_length", "length")}
    return {name: decisive[name] for name in _BASE} | lengths


def _id(kind: str, decisive: dict[str, Any]) -> str:
    text = json.dumps([kind, decisive], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
