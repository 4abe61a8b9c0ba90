import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpo_jax.config import ObjectiveConfig
from diffpo_jax.rl import objective

LOG = np.log


def f32(x):
    return jnp.asarray(x, jnp.float32)


def config(**fields):
    defaults = {"weights": "none", "clip_low": 0.2, "clip_high": 0.3, "kl": 0.0, "truncation": 2.0}
    return ObjectiveConfig(**(defaults | fields))


# Importance weights.


def test_weights_by_hand_with_truncation_and_without():
    old, rollout = f32([[LOG(0.3), LOG(0.5), LOG(0.9)]]), f32([[LOG(0.6), LOG(0.4), LOG(0.1)]])
    capped = objective.importance_weights(old, rollout, "token", 2.0)
    np.testing.assert_allclose(capped, [[0.5, 1.25, 2.0]], rtol=1e-6)
    free = objective.importance_weights(old, rollout, "token", 100.0)
    np.testing.assert_allclose(free, [[0.5, 1.25, 9.0]], rtol=1e-6)
    none = objective.importance_weights(old, rollout, "none", 2.0)
    np.testing.assert_array_equal(none, [[1.0, 1.0, 1.0]])


def test_weights_of_huge_differences_stay_finite():
    old, rollout = f32([[0.0, -500.0, 0.0]]), f32([[-500.0, 0.0, -1e30]])
    got = objective.importance_weights(old, rollout, "token", 2.0)
    np.testing.assert_allclose(got, [[2.0, 0.0, 2.0]], atol=1e-6)


def test_weights_carry_no_gradient():
    def total(x):
        return jnp.sum(objective.importance_weights(x, f32([[0.0, 1.0]]), "token", 2.0))

    np.testing.assert_array_equal(jax.grad(total)(f32([[0.1, 0.2]])), [[0.0, 0.0]])


def test_unknown_weights():
    with pytest.raises(ValueError, match="sequence"):
        objective.importance_weights(f32([[0.0]]), f32([[0.0]]), "sequence", 2.0)


# The clip: ratios below, inside and above [0.8, 1.3], for both signs of the advantage.

RATIOS = np.array([0.5, 0.8, 1.0, 1.2, 1.5])


@pytest.mark.parametrize(
    ("advantage", "values", "clipped", "slopes"),
    [
        # A good action is not pushed beyond the upper bound ...
        (2.0, [1.0, 1.6, 2.0, 2.4, 2.6], [0, 0, 0, 0, 1], [1.0, None, 2.0, 2.4, 0.0]),
        # ... and a bad one not below the lower; the other sides are never clipped.
        (-2.0, [-1.6, -1.6, -2.0, -2.4, -3.0], [1, 0, 0, 0, 0], [0.0, None, -2.0, -2.4, -3.0]),
        (0.0, [0.0] * 5, [0] * 5, [0.0] * 5),
    ],
)
def test_clip_by_hand(advantage, values, clipped, slopes):
    log_ratio, a = f32(LOG(RATIOS)), jnp.full(5, advantage)
    np.testing.assert_allclose(objective.clipped(log_ratio, a, 0.2, 0.3), values, rtol=1e-6)
    inside = RATIOS != 0.8  # on the bound rounding decides
    at = np.asarray(objective.is_clipped(log_ratio, a, 0.2, 0.3))
    np.testing.assert_array_equal(at[inside], np.array(clipped, bool)[inside])

    def total(x):
        return jnp.sum(objective.clipped(x, a, 0.2, 0.3))

    got = np.asarray(jax.grad(total)(log_ratio))  # d ratio A / d log ratio = ratio A
    expected = [s for s in slopes if s is not None]
    keep = [s is not None for s in slopes]
    np.testing.assert_allclose(got[keep], expected, rtol=1e-6)


def test_k3_by_hand():
    new = f32([LOG(0.5), LOG(0.5), LOG(0.25), -1.0])
    reference = f32([LOG(0.25), LOG(0.5), LOG(0.5), -1.0])
    # exp(d) - d - 1 with d = log(ref / new)
    expected = [0.5 + LOG(2) - 1, 0.0, 2 - LOG(2) - 1, 0.0]
    np.testing.assert_allclose(objective.k3(reference, new), expected, atol=1e-6)


@pytest.mark.parametrize("size", [1e-6, 1e-4, 1e-3])
def test_k3_is_never_negative(size):
    d = f32(np.random.default_rng(0).normal(scale=size, size=1000))
    got = np.asarray(objective.k3(d, jnp.zeros_like(d)))
    assert (got >= 0).all()
    assert got.mean() == pytest.approx(size**2 / 2, rel=0.1)


# The tokens' part of the objective: two sequences of three tokens.

NEW = f32(LOG([[0.6, 0.2, 0.5], [0.3, 0.6, 0.2]]))
OLD = f32(LOG([[0.5, 0.4, 0.5], [0.2, 0.5, 0.5]]))
ROLLOUT = f32(LOG([[0.4, 0.8, 0.1], [0.2, 0.5, 0.25]]))
REFERENCE = f32(LOG([[0.3, 0.2, 1.0], [0.6, 0.6, 0.2]]))
COUNTED = jnp.array([[True, True, True], [True, True, False]])
ADVANTAGE = f32([2.0, -1.0])


def tokens(**fields):
    return objective.token_objective(
        NEW, OLD, ROLLOUT, REFERENCE, COUNTED, ADVANTAGE, config(**fields)
    )


def test_token_objective_without_weights():
    # Ratios 1.2 0.5 1 | 1.5 1.2 (0.4): with A = 2 and A = -1 none of the counted is clipped.
    np.testing.assert_allclose(tokens(), [2 * (1.2 + 0.5 + 1) / 3, -(1.5 + 1.2) / 2], rtol=1e-6)


def test_token_objective_clips():
    # [0.9, 1.1]: 1.2 becomes 1.1 for the good sequence; the bad one keeps 1.5 and 1.2.
    expected = [2 * (1.1 + 0.5 + 1) / 3, -(1.5 + 1.2) / 2]
    np.testing.assert_allclose(tokens(clip_low=0.1, clip_high=0.1), expected, rtol=1e-6)


def test_token_objective_with_weights():
    # w = 1.25 0.5 min(2, 5) | 1 1
    expected = [2 * (1.25 * 1.2 + 0.5 * 0.5 + 2 * 1.0) / 3, -(1.5 + 1.2) / 2]
    np.testing.assert_allclose(tokens(weights="token"), expected, rtol=1e-6)


def test_token_objective_with_a_kl_term_that_is_not_weighted():
    d = LOG([[0.5, 1.0, 2.0], [2.0, 1.0, 1.0]])
    k3 = np.exp(d) - d - 1
    penalty = 0.1 * np.array([k3[0].sum() / 3, k3[1, :2].sum() / 2])
    got = tokens(weights="token", kl=0.1)
    np.testing.assert_allclose(got, np.asarray(tokens(weights="token")) - penalty, rtol=1e-5)


def test_what_is_not_counted_is_not_read():
    def value(new):
        return objective.token_objective(
            new, OLD, ROLLOUT, None, COUNTED, ADVANTAGE, config(weights="token")
        )

    other = NEW.at[1, 2].set(-jnp.inf)
    np.testing.assert_array_equal(value(NEW), value(other))
    gradient = np.asarray(jax.grad(lambda x: jnp.sum(value(x)))(NEW))
    assert gradient[1, 2] == 0
    assert (gradient[0] != 0).all()


def test_a_sequence_with_nothing_counted_is_zero():
    none = jnp.zeros((2, 3), bool)
    got = objective.token_objective(NEW, OLD, ROLLOUT, None, none, ADVANTAGE, config())
    np.testing.assert_array_equal(got, [0.0, 0.0])


# The threshold's part.


def test_threshold_objective_by_hand():
    new, old = f32(LOG([0.6, 0.3, 0.5])), f32(LOG([0.4, 0.6, 0.5]))
    sigma, advantage = f32([0.5, 0.7, 1.0]), f32([2.0, 1.0, -1.0])
    # Ratios 1.5 -> 1.3, 0.5, 1.
    plain = objective.threshold_objective(new, old, sigma, advantage, config())
    np.testing.assert_allclose(plain, [2.6, 0.5, -1.0], rtol=1e-6)
    settings = config(gamma_weight=3.0, gamma_entropy=0.1)
    got = objective.threshold_objective(new, old, sigma, advantage, settings)
    expected = 3 * np.array([2.6, 0.5, -1.0]) + 0.1 * LOG([0.5, 0.7, 1.0])
    np.testing.assert_allclose(got, expected, rtol=1e-6)
