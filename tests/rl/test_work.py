"""Passes and operations of a step, worked by hand."""

import dataclasses
import types

import numpy as np
import pytest

from diffpo_jax.config import (
    LikelihoodConfig,
    LoRAConfig,
    ModelConfig,
    ObjectiveConfig,
    RLConfig,
    SamplerConfig,
)
from diffpo_jax.distributed import chips
from diffpo_jax.models import flops
from diffpo_jax.models.flops import Network
from diffpo_jax.rl import work

NETWORK = Network(ModelConfig(width=4, heads=2, kv_heads=1, ff=6, layers=2), LoRAConfig(), 10)
SAMPLER = SamplerConfig(prompt_length=3, length=6, block_length=2)
NFE = np.array([4, 2])
# Row 0: two calls, then one, then one, in blocks of two.  Row 1 ends in its second block.
COMMIT_CALL = np.array([[1, 2, 3, 3, 4, 4], [1, 1, 2, 3, 3, 3]])


def call(tokens, read):
    return flops.of_call(NETWORK, tokens=tokens, keys=9, read=read).forward


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 6 * call(9, 6)),
        # The block alone is read, in whole chunks.
        ({"vocabulary_chunk": 2}, 6 * call(9, 2)),
        ({"vocabulary_chunk": 3}, 6 * call(9, 3)),
        ({"vocabulary_chunk": 1, "block_length": 6}, 6 * call(9, 6)),
        # A whole pass as each of five blocks is entered.
        ({"cache": "dual"}, 6 * call(2, 6) + 5 * call(9, 0)),
        ({"cache": "prompt"}, 6 * call(6, 6) + 5 * call(9, 0)),
        ({"cache": "dual", "cache_refresh": 1}, 6 * call(2, 6) + 6 * call(9, 0)),
        ({"cache": "dual", "cache_refresh": 2}, 6 * call(2, 6) + 5 * call(9, 0)),
    ],
)
def test_of_rollouts(changes, expected):
    sampler = dataclasses.replace(SAMPLER, **changes)
    assert work.of_rollouts(NETWORK, sampler, COMMIT_CALL, NFE) == expected


@pytest.mark.parametrize(
    ("anchors", "objective", "compared", "expected"),
    [
        (2, {}, False, (2 * 2, 3 * 2)),  # the first update scores itself
        (2, {}, True, (5 * 2, 3 * 2)),
        (2, {"kl_in": "reward"}, True, (4 * 2, 3 * 2)),
        (0, {}, False, (2 * 3, 3 * 3)),  # micro-batches of one: four and two passes
        (1, {"selection": "exact"}, False, (2, 3 + 3 * 3)),
    ],
)
def test_passes_of_three_updates(anchors, objective, compared, expected):
    config = RLConfig(
        inner_updates=3,
        micro_batch=1,
        likelihood=LikelihoodConfig(anchors=anchors),
        objective=ObjectiveConfig(**objective),
    )
    assert work.passes(NFE, config, compared=compared) == expected


def test_of_updates():
    """Four passes and six gradients of nine tokens; those of an adapter spare a third."""
    one = flops.of_call(NETWORK, tokens=9, keys=9, read=6)
    done = work.Passes(4.0, 6.0)
    assert work.of_updates(NETWORK, SAMPLER, done, whole=True) == (4 + 18) * one.forward
    spared = work.of_updates(NETWORK, SAMPLER, done, whole=False)
    assert spared == (4 + 18) * one.forward - 6 * one.weights


def test_rates_by_hand():
    """2e12 operations in 4 s on two chips of 1e12 a second: a quarter of what they can do."""
    assert work.rates(2e12, 80, 4.0, 2, 1e12) == {"tokens_per_second_per_chip": 10.0, "mfu": 0.25}
    assert "mfu" not in work.rates(2e12, 80, 4.0, 2, None)


@pytest.mark.parametrize(
    ("kind", "version", "capability", "expected"),
    [
        ("cpu", "", None, "cpu"),
        ("tpu", "", None, "tpu"),
        ("gpu", "cuda 13000", "9.0", "cuda"),
        ("gpu", "cuda 12080", "8.0", "cuda"),
        ("gpu", "cuda 12080", "7.5", "gpu"),  # cuDNN has no such kernel for it
        ("gpu", "rocm 60200", "gfx942", "gpu"),
    ],
)
def test_what_programs_are_compiled_for(kind, version, capability, expected):
    device = types.SimpleNamespace(
        platform=kind,
        client=types.SimpleNamespace(platform_version=version),
        compute_capability=capability,
    )
    assert chips.platform(device) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v5e", 197e12),
        ("TPU v6 lite", 918e12),
        ("TPU v4", 275e12),
        ("TPU v4 lite", None),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("cpu", None),
    ],
)
def test_peaks_by_what_jax_calls_a_device(kind, expected):
    assert chips.peak(kind) == expected
