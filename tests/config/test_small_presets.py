"""The presets of models for one GPU."""

import pathlib
import sys

import pytest

from diffpo_jax.config import convert

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from configs import gsm8k, sudoku

SMALL = ("qwen3_0_6b", "qwen2_5_coder_0_5b", "open_dcoder_0_5b")


def made(preset, module=gsm8k):
    return convert.from_config_dict(module.get_config(preset))


@pytest.mark.parametrize("size", SMALL)
@pytest.mark.parametrize("algorithm", ["", ",lora", ",d1"])
def test_small_models_take_one_device_and_small_micro_batches(size, algorithm):
    config = made(size + algorithm)
    assert config.mesh.fsdp == 1
    assert config.rl.micro_batch == 12  # two groups of 6, of 96 rollouts


def test_large_models_keep_d1s_micro_batches():
    assert made("llada_8b,lora").rl.micro_batch == made("llada_8b,d1").rl.micro_batch == 48


@pytest.mark.parametrize("size", SMALL)
def test_a_t4_computes_in_float32_over_frozen_bfloat16_weights(size):
    config = made(f"{size},t4")
    assert (config.model.dtype, config.model.param_dtype) == ("float32", "bfloat16")
    assert config.lora.rank
    rows = config.rl.prompts * config.rl.group
    assert (rows, config.rl.micro_batch) == (24, 6)
    assert config.checkpoint.every == 1  # a session may end after any step


def test_a_t4s_preset_goes_with_other_sizes():
    assert made("smoke,t4", sudoku).rl.micro_batch == 4
