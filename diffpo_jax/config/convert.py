"""Conversions between a ConfigDict, the configuration's dataclasses, and JSON."""

import dataclasses
import difflib
import importlib.util
import json
import pathlib
import traceback
import types
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_dict, config_flags

from diffpo_jax.config import Config, StudyConfig, check, other_names, resolve, values
from diffpo_jax.system.errors import UserError

# Fields that may differ when a workdir is resumed, since they cannot change what a run or an
# evaluation computes, apart from rounding.  The guard only stops or slows a run.
_FREE = (
    *("mesh.", "logging.", "checkpoint.", "rl.guard.", "task.data_dir", "model.check_weights"),
    *("evaluation.batch", "evaluation.every"),
    *("sampler.slots", "sampler.vocabulary_chunk", "rl.micro_batch", "pretrain.micro_batch"),
    "model.scan_unroll",
)
# Fields that may differ as well: they decide only the evaluation at the end, and a finished run may
# be evaluated on another file or grid.
_OF_EVALUATIONS = ("evaluation.", "task.test_file")
# The exceptions, which decide the validation accuracies of a run.
_NOT_FREE = ("evaluation.temperature", "evaluation.samples", "evaluation.validation_examples")
# Fields that older versions saved and that decide nothing any more.
_REMOVED = ("rl.guard.entropy", "rl.head.alone", "rl.head.alone_at_end")

# The type of an optional field in a ConfigDict: any value may be set, and `coerce` checks it.
# It is not `object`, because ml_collections' parser of that refuses "--flag value".
_ANY = (object,)


class _LiteralParser(flags.ArgumentParser):
    def parse(self, argument: Any) -> Any:
        return values.parse(object, argument) if isinstance(argument, str) else argument


config_flags.register_flag_parser_for_type(_ANY, _LiteralParser())


def as_config_dict(section: Any) -> ml_collections.ConfigDict:
    """A section as a ConfigDict, in which fields of several types take values of each."""
    result = ml_collections.ConfigDict()
    for name, hint in values.annotations(type(section)).items():
        value, kinds = getattr(section, name), values.kinds(hint)
        if dataclasses.is_dataclass(value):
            value = as_config_dict(value)
        elif len(kinds) > 1:
            kind = next((k for k in (str, tuple) if kinds == {k, type(None)}), _ANY)
            value = config_dict.FieldReference(value, kind)
        result[name] = value
    return result


def from_config_dict(given: ml_collections.ConfigDict) -> Config:
    """Builds and checks the configuration; fills in what the method and the rule decide.

    Raises:
      UserError: an unknown field (the nearest name is given), a wrong value, or values that
        contradict one another.
    """
    if "run" in given and "grid" in given:
        raise UserError(
            "--config names a study; run it with `python -m diffpo_jax.study`, and with the same "
            "flags."
        )
    return _resolved(_build(Config(), given))


def study_from_config_dict(given: ml_collections.ConfigDict) -> StudyConfig:
    """Builds and checks a study's configuration with its run.  Raises like `from_config_dict`."""
    if "rl" in given and "run" not in given:
        raise UserError(
            "--config names a single experiment; run it with `python -m diffpo_jax.main`, and with "
            "the same flags."
        )
    study = _build(StudyConfig(), given)
    study = dataclasses.replace(study, run=_resolved(study.run))
    check.check_study(study)
    return study


def from_file(spec: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration that `--config=SPEC` and flags `--config.FIELD=VALUE` would give.

    Args:
      spec: a config file, with its presets after a colon.
      overrides: each "field=value", without "config." before the field.

    Raises:
      UserError: no such file, or like `from_config_dict`.
    """
    given = dict_from_file(spec)
    for text in overrides:
        set_field(given, text)
    return from_config_dict(given)


def dict_from_file(spec: str) -> ml_collections.ConfigDict:
    """The result of a config file's `get_config` for the presets after the colon.

    Raises:
      UserError: no such file, an unknown preset, or an error in the file, with its line.
    """
    path, colon, preset = spec.partition(":")
    try:
        get_config = load_module(path).get_config
        given = get_config(preset) if colon else get_config()
    except UserError:
        raise
    except Exception as error:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        reason = text.partition("\n")[0]
        place, kind = _place_in(path, error), type(error).__name__
        raise UserError(f"config file {path}{place}: {kind}: {reason}.") from error
    if not isinstance(given, ml_collections.ConfigDict):
        raise UserError(
            f"config file {path}: get_config must return a ConfigDict, not {given!r}; begin with "
            "convert.as_config_dict(Config()), as the files in configs/ do."
        )
    return given


def _place_in(path: str, error: Exception) -> str:
    """The line of a file that an error comes from, as ", line 3"; empty if it is not known."""
    if isinstance(error, SyntaxError):
        lines = [error.lineno] if error.lineno else []
    else:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
    return f", line {lines[-1]}" if lines else ""


def load_module(path: str | pathlib.Path) -> types.ModuleType:
    """Loads a config file by its path: configs/ is no package, and the working directory varies.

    Raises:
      UserError: no such file.
    """
    source = importlib.util.spec_from_file_location("config_file", path)
    if source is None or source.loader is None or not pathlib.Path(path).is_file():
        raise UserError(f"cannot read the config file {path}.")
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    return module


def set_field(given: ml_collections.ConfigDict, override: str) -> None:
    """Sets "field=value" in place, with the value parsed as its field requires.

    Raises:
      UserError: no such field, or a value that it cannot hold.
    """
    name, equals, text = override.partition("=")
    hint = _annotation(Config, name)
    if not equals:
        raise UserError(f"{override!r} must have the form field=value.")
    value = values.coerce(hint, values.parse(hint, text), f"config.{name}")
    given.update_from_flattened_dict({name: value})


def from_json(text: str) -> Config:
    """The configuration saved by `to_json`.

    Raises:
      UserError: like `from_config_dict`.
      ValueError: this is not JSON, or no object.
    """
    try:
        given = json.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error
    if not isinstance(given, dict):
        raise ValueError("it must be a JSON object")
    for name in _REMOVED:
        *sections, field = name.split(".")
        _section(given, *sections).pop(field, None)
    if _section(given, "rl", "optimizer").get("kind") == "adafactor":
        _drop_unread(given)
    return from_config_dict(ml_collections.ConfigDict(given))


def to_json(config: Config) -> str:
    """The configuration as indented JSON, ending in a newline."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def unknown_field(path: str, root: type = Config) -> str | None:
    """A message if "config.section.field" is no field or section of `root`, otherwise None."""
    section: Any = root
    where, *names = path.split(".")
    for name in names:
        fields = values.annotations(section) if dataclasses.is_dataclass(section) else {}
        if not fields:
            return f"{where} is a value, not a section: {where}.{name} does not exist."
        if name not in fields:
            for library, others in other_names.LIBRARIES.items():
                if root is Config and name in others:
                    return (
                        f"{where}.{name} is not a field of the configuration; {library}'s {name} "
                        f"is config.{others[name]} here (docs/from_trl.md)."
                    )
            near = f"{where}.{difflib.get_close_matches(name, fields, n=1, cutoff=0.0)[0]}"
            return f"{where}.{name} is not a field of the configuration; the nearest is {near}."
        section, where = fields[name], f"{where}.{name}"
    return None


def differences(old: Config, new: Config) -> list[str]:
    """Lines "field: old -> new" for fields that change what a run computes.

    More RL steps than before are no difference, so that a finished run may be continued, unless
    the learning rates fall towards the last step, or a share of the steps differs from the others.
    """
    a, b = flatten(dataclasses.asdict(old)), flatten(dataclasses.asdict(new))
    lines = []
    for name in sorted(a):
        may_differ = name.startswith((*_FREE, *_OF_EVALUATIONS)) and name not in _NOT_FREE
        if a[name] == b[name] or may_differ:
            continue
        if name == "tokenizer.alphabet" and b[name] is None:
            continue  # the training examples decide it, which inputs.json compares
        line = f"config.{name}: {a[name]!r} -> {b[name]!r}"
        if name == "rl.steps" and b[name] > a[name]:
            if _may_go_on(new):
                continue
            line += (
                ", which continues only runs with config.rl.optimizer.decay=none, and under the "
                "rule 'state' also with config.rl.head.alone_first=0 and alone_last=0"
            )
        lines.append(line)
    return lines


def evaluation_changes(old: Config, new: Config) -> dict[str, Any]:
    """The new values of all fields that differ and decide the results of an evaluation.

    Between two configurations without `differences` these are the settings of the evaluation.  What
    only follows from the method or the rule is not named beside these.
    """
    a, b = (flatten(dataclasses.asdict(resolve.unresolve(config))) for config in (old, new))
    return {
        name: b[name] for name in sorted(b) if a[name] != b[name] and not name.startswith(_FREE)
    }


def _may_go_on(config: Config) -> bool:
    """Whether a run of more steps begins with the same steps."""
    joint = config.sampler.rule == "state" and config.mode == "joint"
    alone = config.rl.head.alone_first or config.rl.head.alone_last
    return config.rl.optimizer.decay == "none" and not (joint and alone)


def flatten(nested: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of nested sections by their dotted names; tuples become lists, as in JSON."""
    if not isinstance(nested, dict):
        return {prefix[:-1]: list(nested) if isinstance(nested, tuple) else nested}
    flat = {}
    for name, value in nested.items():
        flat |= flatten(value, f"{prefix}{name}.")
    return flat


def _build(section: Any, given: ml_collections.ConfigDict) -> Any:
    """The section with the given values in place of its own."""
    for name, value in flatten(given.to_dict()).items():
        value = values.coerce(_annotation(type(section), name), value, f"config.{name}")
        section = values.replace_field(section, name, value)
    return section


def _resolved(config: Config) -> Config:
    config = resolve.resolve(config)
    check.check(config)
    return config


def _annotation(root: type, name: str) -> Any:
    """The annotation of the field with a dotted name.  Raises `UserError` without such a field."""
    hint = values.all_annotations(root).get(name)
    if hint is None:
        fault = unknown_field(f"config.{name}", root)
        section = f"config.{name} is a section, not a value; set its fields one by one."
        raise UserError(fault or section)
    return hint


def _section(given: dict[str, Any], *names: str) -> dict[str, Any]:
    """A section of a saved configuration; empty where a damaged one has something else."""
    for name in names:
        found = given.get(name)
        given = found if isinstance(found, dict) else {}
    return given


def _drop_unread(given: dict[str, Any]) -> None:
    """Drops what Adafactor does not read from a saved configuration: older versions let it pass."""
    # The head's Adam reads both.
    head = given.get("mode") != "model" and _section(given, "sampler").get("rule") != "state"
    for name in ("mu_dtype", *(() if head else ("beta1", "beta2"))):
        given["rl"]["optimizer"].pop(name, None)
