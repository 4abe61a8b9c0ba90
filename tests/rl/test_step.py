"""Parts of a step that need no device; whole runs are in tests/run/test_experiment.py."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffpo_jax.arrays.types import Rollout
from diffpo_jax.config import LoRAConfig, ModelConfig, RLConfig, SamplerConfig
from diffpo_jax.models import flops
from diffpo_jax.rl import schedule_free, step, update


@pytest.mark.parametrize(
    ("groups", "gradient"), [(("denoiser",), 3), (("adapter",), None), (("threshold",), 0)]
)
def test_mfu_counts_the_whole_step(groups, gradient):
    """Two chips of 197e12 FLOP/s; rollouts of nine calls; gradients of two anchors for four rows.

    Two rows of a prompt share the first call and the first anchor.
    """
    network = flops.Network(ModelConfig(), LoRAConfig(rank=2), 13)
    devices = np.array([types.SimpleNamespace(device_kind="TPU v5 lite")] * 2)
    config = RLConfig(group=2, micro_batch=None)
    likelihood = dataclasses.replace(config.likelihood, anchors=2)
    context = step.Context(*[None] * len(step.Context._fields))._replace(
        config=dataclasses.replace(config, likelihood=likelihood),
        sampler=SamplerConfig(prompt_length=16, length=3, block_length=3, vocabulary_chunk=None),
        groups=groups,
        network=network,
        rows_per_prompt=2,
        mesh=types.SimpleNamespace(devices=devices, size=2),
    )
    rollout = Rollout(*[None] * len(Rollout._fields))._replace(
        nfe=np.array([1, 3, 2, 3]),
        commit_call=np.ones((4, 3), int),
        sampled=np.ones((4, 3), bool),
    )
    laps = {"rollout": 0.5, "grade": 0.1, "update": 0.4}
    got = step.step_rates(context, rollout, laps, learns=True)
    call = flops.call_flops(network, tokens=19, keys=19, read=3)
    backwards = call.gradient(whole=False) if gradient is None else gradient * call.forward
    assert got["mfu"] == pytest.approx((7 * call.forward + 6 * backwards) / (2 * 197e12))
    assert got["tokens_per_second_per_chip"] == 12 / 2
    assert (got["tokens_per_second"], got["calls_per_second"]) == (12 / 0.5, 9 / 0.5)


@pytest.mark.parametrize(
    ("prompts", "group", "micro", "devices", "expected"),
    [
        (64, 8, 64, 1, 8),
        (64, 8, None, 1, 8),
        (64, 8, 12, 1, 4),  # micro-batches hold parts of a group
        (3, 8, None, 8, 1),  # 24 rows: each device has 3, of which no 2 are sure to share a prompt
        (8, 6, None, 16, 3),
        (16, 6, 32, 16, 2),
        (4, 7, 7, 1, 7),
    ],
)
def test_rows_per_prompt_by_hand(prompts, group, micro, devices, expected):
    config = RLConfig(prompts=prompts, group=group, micro_batch=micro)
    assert step.rows_per_prompt(config, devices) == expected


def test_rollouts_are_made_where_the_gradient_is_taken():
    optimizer = schedule_free.with_average(optax.contrib.schedule_free_adamw(0.1, b1=0.5))
    state = update.init_state({"denoiser": jnp.zeros(1)}, optimizer)
    for number in (1, 2):
        updates, own = optimizer.update({"denoiser": jnp.ones(1)}, state.opt_state, state.params)
        state = update.TrainState(
            jnp.asarray(number), optax.apply_updates(state.params, updates), own
        )
    # z = 0, -0.1, -0.2; x is the mean of the last two, and y halfway between z and x.
    context = step.Context(*[None] * len(step.Context._fields))._replace(frozen={"threshold": 1})
    learning, settled = (step.rollout_params(context, state, learns) for learns in (True, False))
    assert learning["threshold"] == settled["threshold"] == 1
    np.testing.assert_allclose(learning["denoiser"], [-0.175], rtol=1e-5)
    np.testing.assert_allclose(settled["denoiser"], [-0.15], rtol=1e-5)
