"""A grid of runs: every arm of a study with every seed on every task.

Arms of one task and seed begin from one base model, which is a job of its own.  A job's directory
is named after what it computes, so that studies with the same store share their runs.
"""

import hashlib
import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from diffpo_jax.config import Config, GridConfig, convert, values
from diffpo_jax.system.errors import UserError

# What decides the base model; the rest of a configuration begins to matter after it.
_BASE = ("seed", "task", "tokenizer", "model", "lora", "pretrain")
_BASE_FIELDS = ("sampler.prompt_length", "sampler.length")
# What changes no number of a run.
_FREE = ("mesh", "logging", "checkpoint")


class Job(NamedTuple):
    """One process to run.

    Attributes:
      id: names its directory in the store, and its configuration.
      kind: "base", a base model, or "run".
      arm: label of its arm; "base" for a base model.
      flags: of `python -m diffpo_jax.main`, without --workdir.
      needs: id of the base model it begins from; "" where it makes its own.
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
        """What it is called in messages: "sudoku d1 seed 0"."""
        return f"{self.task} {self.arm} seed {self.seed}"


def arms(config: GridConfig) -> dict[str, tuple[str, ...]]:
    """The overrides of every arm by its label, those common to all before its own.

    Raises:
      UserError: an arm has no label or a word that is no "field=value"; two have the same label;
        the reference is none of them.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in config.arms:
        label, colon, words = text.partition(":")
        label = label.strip()
        if not colon or not label or label in found:
            raise UserError(
                f"config.grid.arms: {text!r} must be 'LABEL: field=value ...', its label its own."
            )
        try:
            own = shlex.split(words)
        except ValueError as error:
            raise UserError(f"config.grid.arms: {text!r}: {error}.") from error
        found[label] = (*config.common, *own)
    if config.reference and config.reference not in found:
        raise UserError(
            f"config.grid.reference={config.reference!r} is no arm; there are: {', '.join(found)}."
        )
    return found


def task_name(spec: str) -> str:
    """What a task is called: its config file's name, with the presets if there are any."""
    path, _, preset = spec.partition(":")
    stem = pathlib.PurePath(path).stem
    return f"{stem}:{preset}" if preset else stem


def jobs(config: GridConfig, store: str) -> list[Job]:
    """All jobs of a grid, base models before the runs that need them; each once.

    Args:
      store: directory of the runs, as the processes see it.

    Raises:
      UserError: an arm's field or value is wrong; two arms are the same run.
    """
    result: dict[str, Job] = {}
    for spec in config.tasks:
        for seed in config.seeds:
            seen: dict[str, str] = {}
            for label, overrides in arms(config).items():
                words = (*overrides, f"seed={seed}", f"task.data_dir={store}/data")
                for job in _jobs_of(spec, label, seed, words, store):
                    if job.kind == "run" and job.id in seen:
                        raise UserError(
                            f"config.grid.arms: {seen[job.id]!r} and {label!r} are the same run "
                            f"of {spec}."
                        )
                    if job.kind == "run":
                        seen[job.id] = label
                    result.setdefault(job.id, job)
    return sorted(result.values(), key=lambda job: job.kind != "base")


def _jobs_of(spec: str, label: str, seed: int, overrides: Sequence[str], store: str) -> list[Job]:
    """The run of one arm and seed, after its base model if that is a job of its own."""
    try:
        config = convert.from_file(spec, overrides)
    except UserError as error:
        raise UserError(f"{task_name(spec)}, arm {label!r}: {error}") from error
    found, needs = [], ""
    if config.pretrain.steps and not config.init_from:
        words = tuple(w for w in overrides if _of_base(w))
        base = convert.from_file(spec, words)
        needs = _id("base", _base_values(base))
        found.append(Job(needs, "base", task_name(spec), "base", seed, _flags(spec, words), ""))
        overrides = (*overrides, f"init_from={store}/{needs}")
    id_ = _id("run", _values(config) | {"base": needs})
    found.append(Job(id_, "run", task_name(spec), label, seed, _flags(spec, overrides), needs))
    return found


def _of_base(override: str) -> bool:
    field = override.partition("=")[0]
    return field.partition(".")[0] in _BASE or field in _BASE_FIELDS


def _flags(spec: str, overrides: Sequence[str]) -> tuple[str, ...]:
    # The last of several values of a field counts, as on a command line.
    last = {word.partition("=")[0]: word for word in overrides}
    return (f"--config={spec}", *(f"--config.{word}" for word in last.values()))


def _values(config: Config) -> dict[str, Any]:
    """What decides a run's numbers, written so that ids stay those of older versions."""
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
