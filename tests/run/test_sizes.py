"""The sizes that a run takes for "auto"."""

import dataclasses
import types

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.config import Config
from diffpo_jax.run import sizes

GIB = 2**30


def mesh_of(platform="cpu", data=1, fsdp=1, tensor=1):
    client = types.SimpleNamespace(platform_version="cuda 12")
    device = types.SimpleNamespace(platform=platform, client=client, compute_capability="9.0")
    shape = {"data": data, "fsdp": fsdp, "tensor": tensor}
    return types.SimpleNamespace(devices=np.array([device]), shape=shape)


def resolved(platform="cpu", vocab=13, memory=None, mesh=None, **changes):
    config = Config()
    for name, value in changes.items():
        *sections, field = name.split("__")
        section = config
        for part in sections:
            section = getattr(section, part)
        section = dataclasses.replace(section, **{field: value})
        for i in range(len(sections) - 1, -1, -1):
            parent = config
            for part in sections[:i]:
                parent = getattr(parent, part)
            section = dataclasses.replace(parent, **{sections[i]: section})
        config = section
    config = sizes.resolve(config, mesh or mesh_of(platform), vocab, memory)
    own = (config.sampler.slots, config.sampler.vocabulary_chunk)
    return *own, config.rl.micro_batch, config.pretrain.micro_batch


def test_on_a_cpu_a_pass_has_1024_tokens():
    # 32 tokens a row: 32 rows.  512 rollouts in groups of 8; 256 demonstrations.
    assert resolved() == (32, None, 32, 32)
    assert resolved(sampler__prompt_length=80) == (8, None, 8, 8)
    # 10 rows would fit, 8 is a power of two; 30 rollouts in groups of 6 are 5 micro-batches.
    few = {"sampler__prompt_length": 80, "rl__prompts": 5, "rl__group": 6}
    assert resolved(**few) == (8, None, 6, 8)


def test_given_sizes_stay():
    given = {
        "sampler__slots": None,
        "sampler__vocabulary_chunk": 5,
        "rl__micro_batch": 512,
        "pretrain__micro_batch": None,
    }
    assert resolved(**given) == (None, 5, 512, None)


def test_a_large_vocabulary_is_read_in_pieces():
    # 32 rows x 4 bytes x 32,000 are 4 MB a position: 4 of them are 16 MiB.
    assert resolved(vocab=32_000)[1] == 4
    assert resolved(vocab=1_000_000)[1] == 1
    # The block alone is read from 4,096 tokens on, or with a cache.
    assert resolved(vocab=5_000, sampler__block_length=4)[1] == 4
    assert resolved(vocab=100, sampler__block_length=4)[1] is None
    assert resolved(vocab=100, sampler__block_length=4, sampler__cache="dual")[1] == 4


def test_accelerators_take_more_tokens_and_mind_their_memory():
    assert resolved("gpu", memory=80 * GIB) == (512, None, None, None)
    large = {"model__width": 4096, "model__ff": 12_288, "model__layers": 32, "model__heads": 32}
    large |= {"model__kv_heads": 32, "model__dtype": "bfloat16", "lora__rank": 128}
    large |= {"model__param_dtype": "bfloat16", "sampler__prompt_length": 496}
    large |= {"rl__prompts": 16, "rl__group": 4, "model__remat": True}
    of_80, of_140 = (resolved("gpu", 126_464, x * GIB, **large)[2] for x in (80, 140))
    assert 1 <= of_80 <= of_140 <= 32  # 16,384 tokens are 32 rows
    assert resolved("gpu", 126_464, 10 * GIB, **large)[2] == 1


def test_devices_share_a_micro_batch_evenly():
    # 32 rows on each of 4 devices.
    assert resolved(mesh=mesh_of(data=2, fsdp=2))[2:] == (128, 128)
    # 24 rollouts on 8 devices: 3 each at once, or 1.
    few = {"rl__prompts": 3, "sampler__prompt_length": 1_000}
    assert resolved(mesh=mesh_of(fsdp=8), **few)[2] == 8


@given(
    rows=st.integers(1, 600),
    group=st.integers(1, 12),
    devices=st.integers(1, 16),
    most=st.floats(0.1, 700),
)
def test_micro_batches_divide(rows, group, devices, most):
    rows *= devices
    size = sizes._micro_batch(rows, group, devices, most)
    if size is not None:
        assert rows % size == 0 and size % devices == 0
        assert size <= max(most, devices)
    else:
        assert rows <= max(most, devices)
