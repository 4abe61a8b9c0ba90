"""The presets of models for one GPU."""

import pathlib
import sys

import pytest

from diffpo_jax.config import check, convert

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from configs import gsm8k, sudoku

SMALL = ("qwen3_0_6b", "qwen2_5_coder_0_5b", "open_dcoder_0_5b", "qwen3_0_6b_bd", "sdar_1_7b")
# (positions of a block, where they are counted from, positions that are written at a time)
BLOCKS = {
    "qwen3_0_6b_bd": (32, "completion", 32),
    "sdar_1_7b": (4, "prompt", 4),
    "sdar_8b": (4, "prompt", 4),
    "fast_dllm_v2_7b": (32, "prompt", 8),
}


def made(preset, module=gsm8k):
    return convert.from_config_dict(module.get_config(preset))


@pytest.mark.parametrize("size", SMALL)
@pytest.mark.parametrize("algorithm", ["", ",lora", ",d1"])
def test_small_models_take_one_device_and_small_micro_batches(size, algorithm):
    config = made(size + algorithm)
    assert config.mesh.fsdp == 1
    assert config.rl.micro_batch == 12  # two groups of 6, of 96 rollouts


@pytest.mark.parametrize("preset", ["llada_8b,lora", "llada_8b,d1", "sdar_8b", "fast_dllm_v2_7b"])
def test_large_models_keep_d1s_micro_batches(preset):
    assert (made(preset).mesh.fsdp, made(preset).rl.micro_batch) == (8, 48)


@pytest.mark.parametrize("module", [gsm8k, sudoku])
@pytest.mark.parametrize("size", BLOCKS)
@pytest.mark.parametrize("algorithm", ["", ",lora", ",d1", ",lora,d1", ",justgrpo", ",state"])
def test_models_of_blocks_are_written_by_blocks_with_an_exact_cache(module, size, algorithm):
    config = made(size + algorithm, module)
    check.check_training(config)
    block, origin, written = BLOCKS[size]
    written = 1 if algorithm == ",justgrpo" else written
    assert (config.model.attention_block, config.model.attention_origin) == (block, origin)
    assert (config.sampler.block_length, config.sampler.cache) == (written, "block")


@pytest.mark.parametrize("size", SMALL)
def test_a_t4_computes_in_float32_over_frozen_bfloat16_weights(size):
    config = made(f"{size},t4")
    assert (config.model.dtype, config.model.param_dtype) == ("float32", "bfloat16")
    assert config.lora.rank
    rows = config.rl.prompts * config.rl.group
    assert (rows, config.rl.micro_batch) == (24, 6)
    assert config.checkpoint.every == 1  # a session may end after any step
    assert config.sampler.cache == ("block" if config.model.attention_block else "dual")


def test_a_t4s_preset_goes_with_other_sizes():
    assert made("smoke,t4", sudoku).rl.micro_batch == 4
