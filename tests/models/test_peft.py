"""Adapters as PEFT reads them: names, orientation, and the layers that the pattern matches."""

import json
import os
import re
import stat

import numpy as np
import pytest
import safetensors.numpy

from diffpo_jax.config import PROJECTIONS, LoRAConfig
from diffpo_jax.models import peft
from diffpo_jax.models.families import FAMILIES
from diffpo_jax.system.errors import UserError

ADAPTER = {
    "blocks": {
        "q_a": np.arange(12.0).reshape(2, 3, 2),  # two layers, 3 inputs, rank 2
        "q_b": np.arange(16.0).reshape(2, 2, 4),
    }
}
CONFIG = LoRAConfig(rank=2, alpha=8.0, targets=("q",))


def write(path, family):
    peft.write(path, ADAPTER, CONFIG, family, base="some/model", lineage={"commit": "c"})
    weights = safetensors.numpy.load_file(path / peft.WEIGHTS)
    return weights, json.loads((path / peft.CONFIG).read_text())


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llada", "base_model.model.model.transformer.blocks.1.q_proj"),
        ("dream", "base_model.model.model.layers.1.self_attn.q_proj"),
    ],
)
def test_tensors_by_hand(tmp_path, family, name):
    weights, config = write(tmp_path / "out", family)
    assert len(weights) == 4
    np.testing.assert_array_equal(weights[f"{name}.lora_A.weight"], [[6, 8, 10], [7, 9, 11]])
    b = weights[f"{name}.lora_B.weight"]
    assert b.shape == (4, 2)
    np.testing.assert_array_equal(b[1], [9, 13])
    assert (config["r"], config["lora_alpha"]) == (2, 8.0)
    assert config["base_model_name_or_path"] == "some/model"
    assert config["revision"] is None
    assert json.loads((tmp_path / "out" / "lineage.json").read_text()) == {"commit": "c"}
    with pytest.raises(UserError, match="exists already"):
        write(tmp_path / "out", family)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_permissions_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write(tmp_path / "out", "llada")
    finally:
        os.umask(before)
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert files == dict.fromkeys([peft.WEIGHTS, peft.CONFIG, "lineage.json"], mode)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_pattern_matches_only_the_kernels_of_blocks(family):
    """PEFT matches it with the whole name of every module; LLaDA's head is called ff_out too."""
    pattern = peft._config_json(LoRAConfig(rank=1), family, "")["target_modules"]
    names = FAMILIES[family].weights
    for path, name in names.items():
        module = name.format(i=12).rsplit(".", 1)[0]
        wanted = path in {f"blocks/{x}" for x in PROJECTIONS} or path.endswith("_bias")
        assert bool(re.fullmatch(pattern, module)) == wanted
