"""Reads the config.json of published checkpoints, and refuses networks that are not ours."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from diffpo_jax.models.families import FAMILIES, Family
from diffpo_jax.system import reading
from diffpo_jax.system.errors import UserError

NAME = "config.json"
# Keys of ours, which exports have if the family does not say it.
LOGIT_SHIFT, BLOCKS = "logit_shift", ("attention_block", "attention_origin")

# Larger sizes are mistakes, which would otherwise be found only after a long time.
_MOST, _MOST_LAYERS, _MOST_FLOAT = 10**7, 1_000, 1e30
# Settings that a file may leave out, and what that means.
_DEFAULTS = {"head_dim": None, "qk_norm": False}
# The same of settings that other families' files do not have, so that the configuration has them.
_OWN_DEFAULTS = {"attention_block": None, "attention_origin": "completion"}
_ROPE = ("rope_parameters", "rope_scaling")  # what transformers 5 and 4 call the kind of RoPE


def read_model_config(
    directory: pathlib.Path, family: str, *, autoregressive: bool = False
) -> dict[str, Any]:
    """Fields of `ModelConfig` that a checkpoint's config.json determines.

    Args:
      autoregressive: whether it is of the network that the family's are conversions of.

    Raises:
      UserError: the file is missing, lacks a key or has a value of another type; or it describes
        another network than the family's, or has an unknown key, which may do so.
    """
    path, known = directory / NAME, FAMILIES[family]
    values = read_json(path)
    marks = known.marks | ({"model_type": known.source} if autoregressive else {})
    for key, value in marks.items():
        # A missing key has the family's value, except the key that names the family.
        given = values.get(key, None if key == "model_type" else value)
        if given != value:
            raise UserError(
                f"{path} is no checkpoint of family {family!r}: its {key} is {given!r:.80}, the "
                f"family's is {value!r}. Set config.model.family to the checkpoint's family."
            )
    values = _with_theta(values, known.settings["rope_theta"], path)
    usual = _DEFAULTS | _OWN_DEFAULTS
    absent = {key: usual[field] for field, key in known.settings.items() if field in usual}
    values = absent | values
    missing = [key for key in known.settings.values() if key not in values]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: is it the published config.json?")
    if values[known.settings["kv_heads"]] is None:  # so the families' code has it
        values |= {known.settings["kv_heads"]: values[known.settings["heads"]]}
    sizes = {
        field: _setting(field, key, values[key], path) for field, key in known.settings.items()
    }
    tied = _flag(known.tying, values.get(known.tying, False), path)
    _check_others(values, known, family, path)
    _check_shapes(values, sizes, path)
    fields = _DEFAULTS | {"positions": None} | sizes | {"tied": tied} | dict(known.fixed)
    return fields | _shift(values, path) | _blocks(values, known, path)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file.  Raises `UserError` if there is none."""
    try:
        value = json.loads(reading.read_text(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object; it holds {value!r:.60}.")
    return value


def _shift(values: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """The logit shift, if the file has it: exports do whose shift is not their family's."""
    if LOGIT_SHIFT not in values:
        return {}
    value = values[LOGIT_SHIFT]
    if type(value) is not int or value not in (0, 1):
        raise UserError(f"{path}: {LOGIT_SHIFT} must be 0 or 1; it is {value!r:.60}.")
    return {"logit_shift": value}


def own_block_keys(known: Family) -> tuple[str, ...]:
    """Fields of `ModelConfig` about blocks that the family's published files have no key for."""
    given = {*known.settings, *known.fixed}
    return tuple(name for name in BLOCKS if name not in given)


def _blocks(values: Mapping[str, Any], known: Family, path: pathlib.Path) -> dict[str, Any]:
    """Attention by blocks, if the file has it: exports do whose family sees whole rows."""
    keys = [key for key in own_block_keys(known) if key in values]
    return {key: _setting(key, key, values[key], path) for key in keys}


def _setting(field: str, key: str, value: Any, path: pathlib.Path) -> Any:
    """A value that is read, of the type that its field of `ModelConfig` has."""
    if field in ("rope_theta", "norm_eps"):
        return _number(key, value, path)
    if field in ("qkv_bias", "qk_norm"):
        return _flag(key, value, path)
    if field == "attention_origin":
        if value not in ("completion", "prompt"):
            raise UserError(f"{path}: {key} must be completion or prompt; it is {value!r:.60}.")
        return value
    if field in ("positions", "head_dim", "attention_block") and value in (0, None):
        return None  # files have 0 for None
    most = _MOST_LAYERS if field == "layers" else _MOST
    if type(value) is not int or not 1 <= value <= most:
        raise UserError(
            f"{path}: {key} must be a whole number from 1 to {most}; it is {value!r:.60}."
        )
    return value


def _number(key: str, value: Any, path: pathlib.Path) -> float:
    if type(value) not in (int, float) or not 0 < value < _MOST_FLOAT:
        raise UserError(f"{path}: {key} must be a number above 0; it is {value!r:.60}.")
    return float(value)


def _flag(key: str, value: Any, path: pathlib.Path) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{path}: {key} must be true or false; it is {value!r:.60}.")
    return value


def _with_theta(values: dict[str, Any], key: str, path: pathlib.Path) -> dict[str, Any]:
    """The values with the base of RoPE under `key`, wherever the file has it.

    Raises `UserError` if there are two bases, or if the angles are others than position / base^x.
    """
    found = {key: _number(key, values[key], path)} if key in values else {}
    for name in _ROPE:
        given = values.get(name)
        if given is None:
            continue
        odd = [
            part
            for part in (given if isinstance(given, dict) else [given])
            if part != "rope_theta"
            and not (part in ("rope_type", "type") and given[part] == "default")
        ]
        if odd:
            raise UserError(
                f"{path}: {name}={given!r:.120} changes the network, whose rotary embedding has "
                "rope_theta and rope_type 'default' here, and nothing else. This checkpoint is not "
                "supported."
            )
        if "rope_theta" in given:
            found[f"{name}.rope_theta"] = _number(f"{name}.rope_theta", given["rope_theta"], path)
    if len(set(found.values())) > 1:
        pairs = " and ".join(f"{name}={value:g}" for name, value in found.items())
        raise UserError(f"{path} has {pairs}, which contradict each other: delete the wrong one.")
    return values | ({key: next(iter(found.values()))} if found else {})


def _check_others(
    values: Mapping[str, Any], known: Family, family: str, path: pathlib.Path
) -> None:
    """Raises `UserError` on keys, besides those that are read, that may change the network."""
    read = {*known.settings.values(), known.tying, *known.marks, *_ROPE, "head_dim", "layer_types"}
    read |= {LOGIT_SHIFT, *own_block_keys(known)}
    others = {key: value for key, value in values.items() if key not in read}
    for key, value in others.items():
        if key in known.supported and value not in known.supported[key]:
            wanted = " or ".join(map(json.dumps, known.supported[key]))
            raise UserError(
                f"{path}: {key}={json.dumps(value):.80} changes the network, and family {family!r} "
                f"supports only {wanted}. This checkpoint is not supported."
            )
    unknown = [key for key in others if key not in known.supported and key not in known.ignored]
    if unknown:
        pairs = ", ".join(f"{key}={json.dumps(others[key]):.80}" for key in unknown)
        raise UserError(
            f"{path} has keys that are unknown here and may change the network: {pairs}. Use a "
            "local copy of the checkpoint without those that change no logits."
        )


def _check_shapes(values: Mapping[str, Any], sizes: Mapping[str, Any], path: pathlib.Path) -> None:
    """Raises `UserError` if heads or layers are others than the sizes give."""
    width, heads = sizes["width"], sizes["heads"]
    head = None if "head_dim" in sizes else values.get("head_dim")
    if head is not None and head != width / heads:
        raise UserError(
            f"{path}: head_dim={json.dumps(head):.60} is not supported: only the width divided by "
            f"the heads, {width} / {heads}, is."
        )
    kinds = values.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * sizes["layers"]:
        raise UserError(
            f"{path}: layer_types={json.dumps(kinds):.80} is not supported: only "
            f'{sizes["layers"]} times "full_attention" is.'
        )
