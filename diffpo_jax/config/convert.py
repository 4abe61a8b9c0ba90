"""The way between a ConfigDict, the configuration's dataclasses, and JSON.

`from_config_dict` names unknown fields, checks types and what must hold between fields, and fills
in what the method decides.
"""

import ast
import dataclasses
import difflib
import importlib.util
import json
import math
import pathlib
import types
import typing
from collections.abc import Sequence
from typing import Any

import ml_collections
from ml_collections import config_dict

from diffpo_jax.config import DIALS, METHODS, RANKINGS, Config, StudyConfig, check
from diffpo_jax.system.errors import UserError

# Fields that cannot change what a run computes: a workdir may be resumed with other values.
# A finished run may so be evaluated again, on another file or grid.
FREE_FIELDS = (
    "mesh.",
    "logging.",
    "checkpoint.",
    "evaluation.every",
    "evaluation.block_length",
    "evaluation.gammas",
    "evaluation.steps",
    "evaluation.confidences",
    "evaluation.factors",
    "evaluation.examples",
    "evaluation.subset",
    "evaluation.batch",
    "task.data_dir",
    "task.test_file",
    "rl.guard.",  # it may stop a run, or slow it from where it is
)


def as_config_dict(config: Any) -> ml_collections.ConfigDict:
    """A dataclass section as a ConfigDict; a field that may be None becomes a placeholder."""
    result = ml_collections.ConfigDict()
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            result[field.name] = as_config_dict(value)
        elif value is None:
            result[field.name] = config_dict.placeholder(_plain_type(hints[field.name]))
        else:
            result[field.name] = value
    return result


def from_config_dict(values: ml_collections.ConfigDict, where: str = "config") -> Config:
    """Builds and checks the configuration.

    Args:
      where: what the flags that set its fields begin with, for messages.

    Returns:
      The resolved configuration: no field that the method decides is left None.

    Raises:
      UserError: an unknown field (the nearest name is given), a wrong type, or values that
        contradict one another.
    """
    config = _build(Config, values.to_dict(), where)
    check.one_of("config.method", config.method, METHODS)
    check.one_of("config.sampler.rule", config.sampler.rule, DIALS)
    config = resolve_templates(resolve_rule(resolve_method(config)))
    check.check(config)
    return config


def from_file(spec: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration that `--config=SPEC` and flags `--config.FIELD=VALUE` would give.

    Args:
      spec: a config file, and its presets after a colon.
      overrides: each "field=value", the field without "config." before it.

    Raises:
      UserError: no such file, or like `from_config_dict`.
    """
    values = dict_from_file(spec)
    for text in overrides:
        set_field(values, text)
    return from_config_dict(values)


def dict_from_file(spec: str) -> ml_collections.ConfigDict:
    """What `get_config` of a config file returns for the presets after the colon.

    Raises:
      UserError: no such file, or an unknown preset.
    """
    path, colon, preset = spec.partition(":")
    get_config = load_module(path).get_config
    return get_config(preset) if colon else get_config()


def load_module(path: str | pathlib.Path) -> types.ModuleType:
    """A config file as a module.

    By its path: configs/ is no package, and the command may be run from anywhere.

    Raises:
      UserError: no such file.
    """
    source = importlib.util.spec_from_file_location("config_file", path)
    if source is None or source.loader is None or not pathlib.Path(path).is_file():
        raise UserError(f"cannot read the config file {path}.")
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    return module


def set_field(values: ml_collections.ConfigDict, override: str) -> None:
    """Sets "field=value" in place, the value read as the field's type asks for.

    Raises:
      UserError: no such field, or a value of another type.
    """
    name, equals, text = override.partition("=")
    fault = unknown_field(f"config.{name}")
    if fault or not equals:
        raise UserError(fault or f"{override!r} must have the form field=value.")
    *sections, last = name.split(".")
    section = values
    for part in sections:
        section = section[part]
    hint = typing.get_type_hints(type(_section(Config(), sections)))[last]
    if dataclasses.is_dataclass(hint):
        raise UserError(f"config.{name} is a section, not a value; set its fields one by one.")
    value: Any = text
    if hint is not str:
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            if _plain_type(hint) is not str:
                raise UserError(f"config.{name}={text!r} is no {_name(hint)}.") from None
    section[last] = _coerce(hint, value, f"config.{name}")


def study_from_config_dict(values: ml_collections.ConfigDict) -> StudyConfig:
    """Builds and checks a study's configuration, its run included.

    Raises:
      UserError: like `from_config_dict`; paths in messages start with "config.run." for the run.
    """
    fields = values.to_dict()
    run = from_config_dict(ml_collections.ConfigDict(fields.pop("run", {})), "config.run")
    study = dataclasses.replace(_build(StudyConfig, fields, "config"), run=run)
    check.check_study(study)
    return study


def from_json(text: str) -> Config:
    """The configuration saved by `to_json`.  Raises `UserError` like `from_config_dict`."""
    return from_config_dict(ml_collections.ConfigDict(json.loads(text)))


def to_json(config: Config) -> str:
    """The configuration as indented JSON, ending in a newline."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def resolve_method(config: Config) -> Config:
    """Fills the fields that are None with what the method says."""
    method = METHODS[config.method]

    def fill(section: Any) -> Any:
        chosen = {k: v for k, v in method.items() if getattr(section, k, 0) is None}
        return dataclasses.replace(section, **chosen)

    rl = dataclasses.replace(
        config.rl,
        likelihood=fill(config.rl.likelihood),
        objective=fill(config.rl.objective),
    )
    return dataclasses.replace(config, rl=rl)


def resolve_rule(config: Config) -> Config:
    """Fills in what the commit rule ranks by, where that is None."""
    if config.sampler.ranking is not None:
        return config
    ranking = RANKINGS[config.sampler.rule][0]
    return dataclasses.replace(config, sampler=dataclasses.replace(config.sampler, ranking=ranking))


def resolve_templates(config: Config) -> Config:
    """The texts of templates "@FILE" in their place: a run keeps what its prompts were.

    Raises:
      UserError: a file cannot be read.
    """
    prompt, rows = config.task.prompt, config.pretrain.demonstrations
    prompt = dataclasses.replace(
        prompt, template=_text_of(prompt.template, "config.task.prompt.template")
    )
    where = "config.pretrain.demonstrations"
    rows = dataclasses.replace(
        rows,
        prompt=_text_of(rows.prompt, f"{where}.prompt"),
        answer=_text_of(rows.answer, f"{where}.answer"),
    )
    return dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, prompt=prompt),
        pretrain=dataclasses.replace(config.pretrain, demonstrations=rows),
    )


def _text_of(template: str, field: str) -> str:
    if not template.startswith("@"):
        return template
    field = f"{field}={template}"
    try:
        text = pathlib.Path(template[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # not there, not a name, not UTF-8
        raise UserError(f"{field} cannot be read: {error}.") from error
    if text.startswith("@"):
        raise UserError(f"{field}: a template must not begin with @.")
    return text


def unknown_field(path: str, root: type = Config) -> str | None:
    """A message where "config.section.field" names no field of `root`, None where it does."""
    section: Any = root()
    where, *names = path.split(".")
    for name in names:
        fields = [f.name for f in dataclasses.fields(section)] if _is_section(section) else []
        if name not in fields:
            return _unknown(where, name, fields)
        section, where = getattr(section, name), f"{where}.{name}"
    return None


def differences(old: Config, new: Config) -> list[str]:
    """Lines "field: old -> new" for fields that change what a run computes.

    More RL steps than before are no difference, unless the learning rates come down towards the
    last of them: a finished run may be continued.
    """
    a, b = flatten(dataclasses.asdict(old)), flatten(dataclasses.asdict(new))
    lines = []
    for name in sorted(a.keys() | b.keys()):
        if name.startswith(FREE_FIELDS) or a.get(name) == b.get(name):
            continue
        if name == "rl.steps" and b[name] > a[name] and new.rl.optimizer.decay == "none":
            continue
        lines.append(f"config.{name}: {a.get(name)!r} -> {b.get(name)!r}")
    return lines


def _build(cls: type, values: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in fields:
            raise UserError(_unknown(where, name, list(fields)))
    built = {}
    for name, value in values.items():
        hint, path = hints[name], f"{where}.{name}"
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise UserError(f"{path} is a section, not a value; set its fields one by one.")
            built[name] = _build(hint, value, path)
        else:
            built[name] = _coerce(hint, value, path)
    return cls(**built)


def _unknown(where: str, name: str, fields: list[str]) -> str:
    if not fields:
        return f"{where} is a value, not a section: {where}.{name} does not exist."
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)[0]
    return f"{where}.{name} is not a field of the configuration; the nearest is {where}.{near}."


def _section(value: Any, names: Sequence[str]) -> Any:
    for name in names:
        value = getattr(value, name)
    return value


def _name(hint: Any) -> str:
    return getattr(_plain_type(hint), "__name__", str(hint))


def _is_section(value: Any) -> bool:
    return dataclasses.is_dataclass(value)


def _coerce(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint`; ints become floats, lists tuples; nothing else changes."""
    optional = isinstance(hint, types.UnionType)
    if value is None and optional:
        return None
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if isinstance(value, (list, tuple)):
            return tuple(_coerce(item, v, f"{path}[{i}]") for i, v in enumerate(value))
        raise UserError(f"{path}={value!r} must be a list of {item.__name__}.")
    plain = _plain_type(hint)
    if plain is float and type(value) is int:
        value = float(value)
    if type(value) is not plain:
        raise UserError(
            f"{path}={value!r} is of type {type(value).__name__}; it must be {plain.__name__}."
        )
    if plain is float and math.isnan(value):
        raise UserError(f"{path} is NaN.")
    return value


def _plain_type(hint: Any) -> type:
    if isinstance(hint, types.UnionType):
        return next(a for a in typing.get_args(hint) if a is not type(None))
    return hint


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of nested sections by their dotted names; tuples become lists, as in JSON."""
    if not isinstance(values, dict):
        return {prefix[:-1]: list(values) if isinstance(values, tuple) else values}
    flat = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.")
    return flat
