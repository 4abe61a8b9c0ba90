"""The threshold head: its start, the bounds of sigma, and its gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpo_jax.config import ThresholdConfig
from diffpo_jax.models.threshold_head import ThresholdHead

FEATURES = jnp.asarray(np.random.default_rng(0).normal(scale=10, size=(5, 7)), jnp.float32)


def fresh(**fields):
    head = ThresholdHead(ThresholdConfig(hidden=3, **fields))
    return head, head.init(jax.random.key(0), FEATURES)["params"]


def with_bias(params, mu, sigma):
    return {**params, "out": {**params["out"], "bias": jnp.array([mu, sigma], jnp.float32)}}


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_head_starts_constant_whatever_the_features(learn_sigma):
    head, params = fresh(gamma=0.25, sigma=0.6, learn_sigma=learn_sigma)
    mu, sigma = head.apply({"params": params}, FEATURES)
    np.testing.assert_allclose(mu, [math.log(0.25)] * 5, rtol=1e-6)
    np.testing.assert_allclose(sigma, [0.6] * 5, rtol=1e-5)


def test_trained_head_reads_the_features():
    head, params = fresh()
    kernel = jnp.ones_like(params["out"]["kernel"])
    params = {**params, "out": {**params["out"], "kernel": kernel}}
    mu, _ = head.apply({"params": params}, FEATURES)
    hidden = np.tanh(FEATURES @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    np.testing.assert_allclose(mu, math.log(0.1) + hidden.sum(-1), atol=1e-5)


@pytest.mark.parametrize(("output", "bound"), [(1e4, 1.2), (-1e4, 0.3)])
def test_sigma_stays_inside_its_bounds(output, bound):
    head, params = fresh(sigma=0.5, sigma_min=0.3, sigma_max=1.2, learn_sigma=True)
    mu, sigma = head.apply({"params": with_bias(params, 2.0, output)}, FEATURES)
    np.testing.assert_allclose(sigma, [bound] * 5, rtol=1e-5)
    np.testing.assert_allclose(mu, [math.log(0.1) + 2.0] * 5, rtol=1e-5)


def test_sigma_rises_with_its_output():
    head, params = fresh(sigma=0.5, sigma_min=0.3, sigma_max=1.2, learn_sigma=True)
    outputs = [-2.0, -0.5, 0.0, 0.5, 2.0]
    values = [
        float(head.apply({"params": with_bias(params, 0, x)}, FEATURES)[1][0]) for x in outputs
    ]
    assert values == sorted(values)
    assert len(set(values)) == 5
    assert values[0] > 0.3
    assert values[-1] < 1.2


@pytest.mark.parametrize("sigma", [0.3, 1.2])
def test_sigma_can_leave_a_bound(sigma):
    head, params = fresh(sigma=sigma, sigma_min=0.3, sigma_max=1.2, learn_sigma=True)

    def total(params):
        return jnp.sum(head.apply({"params": params}, FEATURES)[1])

    np.testing.assert_allclose(total(params) / 5, sigma, rtol=2e-3)
    gradient = jax.grad(total)(params)["out"]["bias"]
    assert gradient[1] > 1e-4
    assert gradient[0] == 0


def test_fixed_sigma_is_not_learned():
    head, params = fresh(sigma=0.7, learn_sigma=False)
    _, sigma = head.apply({"params": with_bias(params, 1.0, 50.0)}, FEATURES)
    np.testing.assert_array_equal(sigma, np.full(5, 0.7, np.float32))


def test_head_is_finite_with_gamma_zero():
    head, params = fresh(gamma=0.0)
    mu, _ = head.apply({"params": params}, FEATURES)
    assert np.isfinite(mu).all()


def test_head_computes_in_float32_from_bfloat16_features():
    head, params = fresh()
    mu, sigma = head.apply({"params": params}, FEATURES.astype(jnp.bfloat16))
    assert mu.dtype == sigma.dtype == jnp.float32
