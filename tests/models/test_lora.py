"""Adapters: a new one changes nothing, a trained one changes kernels, and RL trains only it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.config import PROJECTIONS, LoRAConfig
from diffpo_jax.models import lora

CONFIG = LoRAConfig(rank=3, alpha=6.0)
POLICY, PARAMS = reference.tiny_policy(lora=CONFIG)
TOKENS = jax.random.randint(jax.random.key(0), (2, 7), 0, 5)
MASK = jnp.ones((2, 7), bool).at[0, :2].set(False)


def adapter(zero=False):
    made = POLICY.init_adapter(jax.random.key(1))
    if zero:
        return made
    # B starts at zero, where an adapter has no effect.
    leaves, tree = jax.tree.flatten(made)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(
        tree, [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
    )


@functools.cache
def hidden():
    return jax.jit(POLICY.hidden)


def test_new_adapter_changes_nothing():
    start = adapter(zero=True)
    assert set(start["blocks"]) == {f"{name}_{part}" for name in PROJECTIONS for part in "ab"}
    for name in PROJECTIONS:
        a, b = start["blocks"][f"{name}_a"], start["blocks"][f"{name}_b"]
        assert (a.shape[-1], b.shape[-2]) == (3, 3)
        assert np.abs(a).max() <= a.shape[1] ** -0.5
        assert np.abs(a).max() > 0.9 * a.shape[1] ** -0.5
        assert not np.any(b)
    got = hidden()(PARAMS | {"adapter": start}, TOKENS, MASK)
    np.testing.assert_array_equal(got, hidden()(PARAMS, TOKENS, MASK))


def test_adapter_equals_merged_kernels():
    part = adapter()
    merged = lora.merge(PARAMS["denoiser"], part, CONFIG)
    for name in PROJECTIONS:
        a, b = (np.asarray(part["blocks"][f"{name}_{x}"]) for x in "ab")
        kernel = np.asarray(PARAMS["denoiser"]["blocks"][name])
        for layer in range(len(kernel)):  # alpha / r = 2
            expected = kernel[layer] + 2 * a[layer] @ b[layer]
            np.testing.assert_allclose(merged["blocks"][name][layer], expected, atol=1e-5)
    got = hidden()(PARAMS | {"adapter": part}, TOKENS, MASK)
    expected = hidden()(PARAMS | {"denoiser": merged}, TOKENS, MASK)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert np.abs(got - hidden()(PARAMS, TOKENS, MASK)).max() > 0.1


def test_cached_pass_uses_the_adapter():
    params = PARAMS | {"adapter": adapter()}
    whole, kv = jax.jit(POLICY.hidden_and_kv)(params, TOKENS, MASK)
    within = jax.jit(POLICY.hidden_within, static_argnums=5)
    part = within(params, kv, TOKENS, MASK, jnp.array([3, 4]), 3)
    np.testing.assert_allclose(part[0], whole[0, 3:6], atol=2e-5)
    np.testing.assert_allclose(part[1], whole[1, 4:7], atol=2e-5)


def test_adapter_gradient_follows_from_the_kernels():
    start = adapter(zero=True)

    def loss(params):
        return jnp.sum(jnp.sin(POLICY.hidden(params, TOKENS, MASK)))

    adapter_gradient = jax.jit(jax.grad(lambda part: loss(PARAMS | {"adapter": part})))(start)
    kernel_gradient = jax.jit(jax.grad(lambda d: loss(PARAMS | {"denoiser": d})))(
        PARAMS["denoiser"]
    )
    for name in PROJECTIONS:  # y = x (W + 2 A B) at B = 0: dB = 2 A' dW, dA = 0
        a = np.asarray(start["blocks"][f"{name}_a"])
        expected = 2 * np.einsum("lir,lio->lro", a, kernel_gradient["blocks"][name])
        np.testing.assert_allclose(adapter_gradient["blocks"][f"{name}_b"], expected, atol=1e-4)
        assert not np.any(adapter_gradient["blocks"][f"{name}_a"])


@pytest.mark.parametrize("targets", [("q",), ("v", "down")])
def test_only_targets_have_an_adapter(targets):
    config = LoRAConfig(rank=2, targets=targets)
    made = lora.init(jax.random.key(0), PARAMS["denoiser"], config)
    assert set(made["blocks"]) == {f"{name}_{part}" for name in targets for part in "ab"}
    merged = lora.merge(PARAMS["denoiser"], jax.tree.map(jnp.ones_like, made), config)
    changed = {
        name
        for name in PROJECTIONS
        if np.any(merged["blocks"][name] != PARAMS["denoiser"]["blocks"][name])
    }
    assert changed == set(targets)


def test_recomputed_blocks_use_the_adapter():
    remat, _ = reference.tiny_policy(lora=CONFIG, remat=True)
    part = adapter()

    def loss(policy):
        return lambda x: jnp.sum(policy.hidden(PARAMS | {"adapter": x}, TOKENS, MASK) ** 2)

    plain, again = (jax.jit(jax.grad(loss(p)))(part) for p in (POLICY, remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), plain, again)
