"""Writes an adapter for PEFT: a directory of adapter_model.safetensors and adapter_config.json."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import LoRAConfig
from diffpo_jax.models import tensor_files
from diffpo_jax.models.families import FAMILIES
from diffpo_jax.system import files, hub_names

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."  # PEFT's wrapper puts it before every name


def write(
    directory: pathlib.Path,
    adapter: Params,
    config: LoRAConfig,
    family: str,
    *,
    base: str,
    lineage: Mapping[str, Any],
) -> None:
    """Writes an adapter; the directory appears under its name once it is complete.

    Args:
      adapter: params["adapter"], whole on this host.
      base: directory or hub name of the model that the adapter belongs to.
      lineage: origin of the adapter, JSON-like, written to lineage.json.

    Raises:
      UserError: the directory already exists.
    """
    values = {
        _PREFIX + name: np.ascontiguousarray(value)
        for name, value in _named_tensors(adapter, family)
    }
    with files.new_directory(directory) as temporary:
        tensor_files.save(values, temporary / WEIGHTS)
        files.write_json(temporary / CONFIG, _config_json(config, family, base))
        files.write_json(temporary / "lineage.json", dict(lineage))


def _named_tensors(adapter: Params, family: str):
    """Yields (name, value) of each published tensor; PEFT's shapes are [r, in] and [out, r]."""
    for path, stacked in adapter["blocks"].items():
        projection, part = path.rsplit("_", 1)
        name = FAMILIES[family].weights[f"blocks/{projection}"].removesuffix(".weight")
        for layer, value in enumerate(np.asarray(stacked)):
            yield f"{name.format(i=layer)}.lora_{part.upper()}.weight", value.T


def _config_json(config: LoRAConfig, family: str, base: str) -> dict[str, Any]:
    weights = FAMILIES[family].weights
    base, revision = hub_names.split(base)
    names = [weights[f"blocks/{x}"].removesuffix(".weight") for x in config.targets]
    # A pattern of whole names, not a list of their last parts: LLaDA's head is called ff_out too.
    patterns = [re.escape(name).replace(re.escape("{i}"), r"\d+") for name in names]
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "target_modules": "|".join(patterns),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
