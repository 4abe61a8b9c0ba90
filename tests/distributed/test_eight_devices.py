import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.arrays import rng
from diffpo_jax.config import (
    LikelihoodConfig,
    MeshConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RLConfig,
    ThresholdConfig,
)
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.distributed import sharding
from diffpo_jax.distributed.mesh import make_mesh
from diffpo_jax.rl import step, update
from diffpo_jax.rl.optimizer import make_optimizer, trained_groups

# Groups of four, of which one device keeps all rows together and eight devices two.
PROMPTS, GROUP, LENGTH, PROMPT = 8, 4, 4, 3
ROWS = PROMPTS * GROUP
CONFIG = RLConfig(
    prompts=PROMPTS,
    group=GROUP,
    micro_batch=16,
    inner_updates=2,
    likelihood=LikelihoodConfig(anchors=2, remat=False, prompt_masking=0.1, masked_per="prompt"),
    objective=ObjectiveConfig(weights="token", kl=0.0, gamma_weight=1.0, right_likelihood=0.1),
    optimizer=OptimizerConfig(denoiser_lr=1e-3, threshold_lr=1e-2, warmup=2, weight_decay=0.1),
)
HEAD = ThresholdConfig(gamma=0.5, sigma=0.7, hidden=4, learn_sigma=False)
PARAMS = reference.tiny_policy(threshold=HEAD, positions=8)[1]
ONE = (1, 1, 1)


def on_mesh(shape, slots=0):
    """The programs of a step, and its first state and prompts, on a mesh of this shape."""
    mesh = make_mesh(MeshConfig(*shape))
    groups = trained_groups("joint", False, "entropy_bounded")
    optimizer = make_optimizer(CONFIG.optimizer, groups, 1)
    state = update.init_state(PARAMS, optimizer)
    rows = sharding.batch_sharding(mesh) if shape != ONE else None
    policy, _ = reference.tiny_policy(threshold=HEAD, positions=8, rows=rows)
    size = step.rows_per_prompt(CONFIG, shape[0] * shape[1])
    assert size == (4 if shape == ONE else 2 if shape[0] * shape[1] == 8 else 4)
    settings = SamplerSettings(LENGTH, LENGTH, temperature=1.0, rows_per_prompt=size)
    programs = step.make_programs(policy, optimizer, CONFIG, settings, groups, mesh, state, slots)
    # Copies: the update donates its state.
    placed = jax.device_put(
        jax.tree.map(np.array, state), sharding.shardings(state, mesh), may_alias=False
    )
    prompts = reference.some_prompts(0, PROMPTS, PROMPT, 5)
    repeated = jax.tree.map(lambda x: np.repeat(x, GROUP, axis=0), prompts)
    prompts = sharding.place_batch(repeated, mesh)
    return mesh, programs, placed, prompts


def sample(shape, slots=0):
    _, programs, state, prompts = on_mesh(shape, slots)
    keys = rng.row_keys(rng.key_for(0, "rollout", 1), jnp.arange(ROWS))
    rollout, _ = programs.generate(state.params, prompts, jnp.float32(0), keys)
    if shape != ONE:
        assert len(rollout.tokens.addressable_shards) == np.prod(shape)
        assert rollout.tokens.addressable_shards[0].data.shape[0] < ROWS
    return jax.device_get(rollout)


@functools.cache
def fixed():
    """Rollouts and draws made once, on one device, and advantages and verdicts."""
    rollout = sample(ONE)
    _, programs, _, prompts = on_mesh(ONE)
    draws = jax.device_get(programs.draw(jax.random.key(1), rollout, prompts))
    rng = np.random.default_rng(2)
    return rollout, draws, rng.normal(size=ROWS).astype(np.float32), rng.random(ROWS) < 0.3


@functools.cache
def trained(shape):
    """Parameters and metrics after three updates on the fixed rollouts."""
    mesh, programs, state, prompts = on_mesh(shape)
    rollout, draws, advantage, right = sharding.place_batch(fixed(), mesh)
    batch = update.Batch(prompts, rollout, advantage, draws, None, None, right=right)
    for _ in range(3):
        state, metrics = programs.update(state, {}, batch)
    for x, where in zip(jax.tree.leaves(state), jax.tree.leaves(sharding.shardings(state, mesh))):
        assert x.sharding.is_equivalent_to(where, x.ndim)
    return jax.device_get((state, metrics))


# Sums over rows and over the split axis of a product are taken in another order: gradients differ
# by some 1e-7 of their size, and Adam divides by that size.  Three steps of these rates, which move
# parameters by 1e-3 and more, differ by 3e-7; the rest is for other processors.
TOLERANCE = 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_three_updates_equal_those_of_one_device(shape):
    (state, metrics), (expected, of_one) = trained(shape), trained(ONE)
    assert state.step == 3
    change = jax.tree.map(lambda a, b: np.abs(a - b).max(), expected.params, PARAMS)
    assert min(jax.tree.leaves(change)) > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=TOLERANCE, rtol=0),
        state.params,
        expected.params,
    )
    assert metrics.keys() == of_one.keys()
    for name, (total, count) in metrics.items():
        assert count == of_one[name][1]
        np.testing.assert_allclose(total, of_one[name][0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "slots"), [((8, 1, 1), 0), ((2, 4, 1), 0), ((8, 1, 1), 2)])
def test_rollouts_equal_those_of_one_device(shape, slots):
    rollout, expected = sample(shape, slots), fixed()[0]
    assert len(set(expected.nfe.tolist())) > 1
    for name in ("tokens", "commit_call", "nfe"):
        np.testing.assert_array_equal(getattr(rollout, name), getattr(expected, name))
    for name in ("logprob", "entropy", "gamma", "gamma_logprob", "features"):
        np.testing.assert_allclose(getattr(rollout, name), getattr(expected, name), atol=2e-5)
