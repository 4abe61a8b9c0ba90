"""Parts of a step that need no device; whole runs are in tests/run/test_experiment.py."""

import dataclasses
import types

import numpy as np
import pytest

from diffpo_jax.arrays.types import Rollout
from diffpo_jax.config import LoRAConfig, ModelConfig, RLConfig, SamplerConfig
from diffpo_jax.models import flops
from diffpo_jax.rl import step


@pytest.mark.parametrize(
    ("groups", "gradient"), [(("denoiser",), 3), (("adapter",), None), (("threshold",), 0)]
)
def test_mfu_counts_the_whole_step(groups, gradient):
    """Two chips of 197e12 FLOP/s; nine rollout calls; gradients of two anchors for four rows."""
    network = flops.Network(ModelConfig(), LoRAConfig(rank=2), 13)
    devices = np.array([types.SimpleNamespace(device_kind="TPU v5 lite")] * 2)
    config = RLConfig(group=2)
    likelihood = dataclasses.replace(config.likelihood, anchors=2)
    context = step.Context(*[None] * len(step.Context._fields))._replace(
        config=dataclasses.replace(config, likelihood=likelihood),
        sampler=SamplerConfig(length=3),
        groups=groups,
        network=network,
        mesh=types.SimpleNamespace(devices=devices, size=2),
    )
    rollout = Rollout(*[None] * len(Rollout._fields))._replace(
        nfe=np.array([1, 3, 2, 3]),
        commit_call=np.ones((4, 3), int),
        sampled=np.ones((4, 3), bool),
    )
    got = step.step_rates(context, rollout, {"rollout": 0.5, "grade": 0.1, "update": 0.4})
    call = flops.call_flops(network, tokens=19, keys=19, read=3)
    backwards = call.gradient(whole=False) if gradient is None else gradient * call.forward
    assert got["mfu"] == pytest.approx((9 * call.forward + 8 * backwards) / (2 * 197e12))
    assert got["tokens_per_second_per_chip"] == 12 / 2
    assert (got["tokens_per_second"], got["calls_per_second"]) == (12 / 0.5, 9 / 0.5)
