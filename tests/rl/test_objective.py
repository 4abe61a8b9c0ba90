import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpo_jax.config import ObjectiveConfig
from diffpo_jax.diffusion.settings import EndOfText
from diffpo_jax.rl import objective

LOG = np.log


ALL = jnp.ones((1, 3), bool)


def f32(x):
    return jnp.asarray(x, jnp.float32)


def config(**fields):
    defaults = {"weights": "none", "clip_low": 0.2, "clip_high": 0.3, "kl": 0.0, "truncation": 2.0}
    return ObjectiveConfig(**(defaults | fields))


# Importance weights.


def test_weights_by_hand_with_truncation_and_without():
    old, rollout = f32([[LOG(0.3), LOG(0.5), LOG(0.9)]]), f32([[LOG(0.6), LOG(0.4), LOG(0.1)]])
    capped = objective.importance_weights(old, rollout, ALL, "token", 2.0)
    np.testing.assert_allclose(capped, [[0.5, 1.25, 2.0]], rtol=1e-6)
    free = objective.importance_weights(old, rollout, ALL, "token", 100.0)
    np.testing.assert_allclose(free, [[0.5, 1.25, 9.0]], rtol=1e-6)
    inverted = objective.importance_weights(old, rollout, ALL, "inverted", 1.5)
    np.testing.assert_allclose(inverted, [[1.5, 0.8, 1 / 9]], rtol=1e-6)
    none = objective.importance_weights(old, rollout, ALL, "none", 2.0)
    np.testing.assert_array_equal(none, [[1.0, 1.0, 1.0]])


def test_weights_of_huge_differences_stay_finite():
    old, rollout = f32([[0.0, -500.0, 0.0]]), f32([[-500.0, 0.0, -1e30]])
    got = objective.importance_weights(old, rollout, ALL, "token", 2.0)
    np.testing.assert_allclose(got, [[2.0, 0.0, 2.0]], atol=1e-6)


def test_weights_have_no_gradient():
    def total(x):
        parts = [
            objective.importance_weights(x, f32([[0.0, 1.0]]), ALL[:, :2], kind, 2.0)
            for kind in ("token", "sequence", "normalised", "inverted")
        ]
        return sum(jnp.sum(part) for part in parts)

    np.testing.assert_array_equal(jax.grad(total)(f32([[0.1, 0.2]])), [[0.0, 0.0]])


def test_unknown_weights():
    with pytest.raises(ValueError, match="pairs"):
        objective.importance_weights(f32([[0.0]]), f32([[0.0]]), ALL[:, :1], "pairs", 2.0)


def test_sequence_and_normalised_weights_by_hand():
    old = f32(LOG([[0.3, 0.5, 0.9], [0.2, 0.6, 0.1]]))
    rollout = f32(LOG([[0.6, 0.4, 0.1], [0.4, 0.2, 0.7]]))
    counted = jnp.array([[True, True, True], [True, True, False]])
    # Ratios 0.5 1.25 9 | 0.5 3: products 5.625, cut at 4, and 1.5.
    got = objective.importance_weights(old, rollout, counted, "sequence", 4.0)
    np.testing.assert_allclose(got, [[4.0] * 3, [1.5] * 3], rtol=1e-6)
    # Cut at 2: 0.5 1.25 2 | 0.5 2, over their means 1.25 and 1.25.
    got = np.asarray(objective.importance_weights(old, rollout, counted, "normalised", 2.0))
    np.testing.assert_allclose(got[0], [0.4, 1.0, 1.6], rtol=1e-6)
    np.testing.assert_allclose(got[1, :2], [0.4, 1.6], rtol=1e-6)


def test_counted_tokens_when_the_text_ends_in_the_middle():
    tokens = jnp.asarray([[2, 0, 1, 0], [0, 1, 2, 2], [0, 1, 0, 1]], jnp.int32)
    sampled, end = jnp.ones((3, 4), bool).at[2, 0].set(False), EndOfText((2,), 2)
    to_end = [[1, 0, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1]]
    got = objective.counted_tokens(tokens, sampled, end, "to_end")
    np.testing.assert_array_equal(got, np.array(to_end, bool))
    assert objective.counted_tokens(tokens, sampled, end, "sampled") is sampled
    # A sequence's mean is then over as many: ratios 1 | 1 1.1 1.1 | 1.1 1.1 1.1.
    log_ratio = f32(LOG([[1.0, 1.1, 1.1, 1.1]] * 3))
    value = objective.token_objective(
        log_ratio, jnp.zeros((3, 4)), jnp.zeros((3, 4)), None, got, f32([1.0, 1.0, 2.0]), config()
    )
    np.testing.assert_allclose(value, [1.0, 3.2 / 3, 2 * 3.3 / 3], rtol=1e-6)


# The clip: ratios below, inside and above [0.8, 1.3], for both signs of the advantage.
PPO = ObjectiveConfig(clip_low=0.2, clip_high=0.3)
UNCONDITIONAL = ObjectiveConfig(clip_low=0.2, clip_high=0.3, clip="unconditional")

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
    np.testing.assert_allclose(objective.clipped(log_ratio, a, PPO), values, rtol=1e-6)
    inside = RATIOS != 0.8  # on the bound rounding decides
    at = np.asarray(objective.is_clipped(log_ratio, a, PPO))
    np.testing.assert_array_equal(at[inside], np.array(clipped, bool)[inside])

    def total(x):
        return jnp.sum(objective.clipped(x, a, PPO))

    got = np.asarray(jax.grad(total)(log_ratio))  # d ratio A / d log ratio = ratio A
    expected = [s for s in slopes if s is not None]
    keep = [s is not None for s in slopes]
    np.testing.assert_allclose(got[keep], expected, rtol=1e-6)


def test_unconditional_clip_stops_gradients_in_both_directions():
    log_ratio = f32(LOG(RATIOS))
    for advantage, sign in ((2.0, 1), (-2.0, -1)):
        a = jnp.full(5, advantage)
        got = objective.clipped(log_ratio, a, UNCONDITIONAL)
        np.testing.assert_allclose(got, sign * 2 * np.array([0.8, 0.8, 1.0, 1.2, 1.3]), rtol=1e-6)
        at = np.asarray(objective.is_clipped(log_ratio, a, UNCONDITIONAL))
        np.testing.assert_array_equal(at[[0, 2, 3, 4]], [True, False, False, True])
        slope = jax.grad(lambda x, a=a: jnp.sum(objective.clipped(x, a, UNCONDITIONAL)))(log_ratio)
        np.testing.assert_allclose(np.asarray(slope)[[0, 2, 3, 4]], sign * np.array([0, 2, 2.4, 0]))
    assert not objective.is_clipped(log_ratio, jnp.zeros(5), UNCONDITIONAL).any()


def test_sequence_ratio_is_the_geometric_mean_of_token_ratios():
    new = f32(LOG([[0.8, 0.2, 0.5], [0.1, 0.4, 0.9]]))
    old = f32(LOG([[0.4, 0.4, 0.125], [0.4, 0.1, 0.1]]))
    counted = jnp.array([[True, True, True], [True, True, False]])
    got = np.exp(objective.log_ratios(new, old, counted, "sequence"))
    # 2 · 1/2 · 4 = 4 and 1/4 · 4 = 1.
    np.testing.assert_allclose(got, [[4 ** (1 / 3)] * 3, [1.0] * 3], rtol=1e-6)
    each = np.exp(objective.log_ratios(new, old, counted, "token"))
    np.testing.assert_allclose(each, [[2, 0.5, 4], [0.25, 4, 1]], rtol=1e-6)
    with pytest.raises(ValueError, match="unknown ratio"):
        objective.log_ratios(new, old, counted, "word")


def test_kl_estimators_by_hand():
    new, reference = f32(LOG([0.5, 0.25, 0.3])), f32(LOG([0.25, 0.5, 0.3]))
    d = LOG([0.5, 2.0, 1.0])
    np.testing.assert_allclose(objective.kl_estimate(reference, new, "k1"), -d, atol=1e-6)
    np.testing.assert_allclose(objective.kl_estimate(reference, new, "k2"), d**2 / 2, atol=1e-6)
    with pytest.raises(ValueError, match="k4"):
        objective.kl_estimate(reference, new, "k4")


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_kl_estimators_are_unbiased_under_the_new_policy(kind):
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.4, 0.2])
    estimates = np.asarray(objective.kl_estimate(f32(LOG(q)), f32(LOG(p)), kind))
    assert (p * estimates).sum() == pytest.approx((p * LOG(p / q)).sum(), abs=1e-6)


def test_k3_by_hand():
    new = f32([LOG(0.5), LOG(0.5), LOG(0.25), -1.0])
    reference = f32([LOG(0.25), LOG(0.5), LOG(0.5), -1.0])
    # exp(d) - d - 1 with d = log(ref / new)
    expected = [0.5 + LOG(2) - 1, 0.0, 2 - LOG(2) - 1, 0.0]
    np.testing.assert_allclose(objective.kl_estimate(reference, new, "k3"), expected, atol=1e-6)


@pytest.mark.parametrize("size", [1e-6, 1e-4, 1e-3])
def test_k3_is_never_negative(size):
    d = f32(np.random.default_rng(0).normal(scale=size, size=1000))
    got = np.asarray(objective.kl_estimate(d, jnp.zeros_like(d), "k3"))
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


def test_kl_term_has_no_importance_weight():
    d = LOG([[0.5, 1.0, 2.0], [2.0, 1.0, 1.0]])
    k3 = np.exp(d) - d - 1
    penalty = 0.1 * np.array([k3[0].sum() / 3, k3[1, :2].sum() / 2])
    got = tokens(weights="token", kl=0.1)
    np.testing.assert_allclose(got, np.asarray(tokens(weights="token")) - penalty, rtol=1e-5)


@pytest.mark.parametrize(
    ("aggregation", "divisors"), [("sequence", [3, 2]), ("token", [2.5, 2.5]), ("constant", [3, 3])]
)
def test_aggregations_by_hand(aggregation, divisors):
    got = objective.token_objective(
        NEW,
        OLD,
        ROLLOUT,
        None,
        COUNTED,
        ADVANTAGE,
        config(aggregation=aggregation),
        batch_tokens=jnp.full(2, 2.5),
    )
    sums = np.array([2 * (1.2 + 0.5 + 1), -(1.5 + 1.2)])
    np.testing.assert_allclose(got, sums / divisors, rtol=1e-6)


def test_a_sequence_ratio_clips_the_whole_sequence():
    # Geometric means (0.6)^(1/3) = 0.843 and sqrt(1.8) = 1.342: for A = -1 the second stays.
    got = tokens(ratio="sequence", clip_low=0.1, clip_high=0.1)
    np.testing.assert_allclose(got, [2 * 0.6 ** (1 / 3), -np.sqrt(1.8)], rtol=1e-6)
    both = tokens(ratio="sequence", clip="unconditional", clip_low=0.1, clip_high=0.1)
    np.testing.assert_allclose(both, [2 * 0.9, -1.1], rtol=1e-6)


def test_a_sample_of_calls_estimates_the_sum_over_all():
    scale = f32([[2.0, 0.0, 1.0], [0.0, 3.0, 5.0]])
    got = objective.token_objective(
        NEW, OLD, ROLLOUT, None, COUNTED, ADVANTAGE, config(), scale=scale
    )
    expected = [2 * (2 * 1.2 + 1.0) / 3, -(3 * 1.2) / 2]  # over all counted tokens of the sequence
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_completion_of_one_token():
    at = [x[:, :1] for x in (NEW, OLD, ROLLOUT, REFERENCE, COUNTED)]
    for aggregation in ("sequence", "token", "constant"):
        how = config(aggregation=aggregation, weights="sequence", ratio="sequence")
        got = objective.token_objective(*at, ADVANTAGE, how, batch_tokens=jnp.ones(2))
        np.testing.assert_allclose(got, [1.25 * 2 * 1.2, -1.5], rtol=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_values_of_uncounted_tokens_do_not_matter(estimator):
    how = config(weights="token", kl=0.1, kl_estimator=estimator)

    def value(new):
        return objective.token_objective(new, OLD, ROLLOUT, REFERENCE, COUNTED, ADVANTAGE, how)

    other = NEW.at[1, 2].set(-jnp.inf)
    np.testing.assert_array_equal(value(NEW), value(other))
    gradient = np.asarray(jax.grad(lambda x: jnp.sum(value(x)))(NEW))
    assert gradient[1, 2] == 0
    assert (gradient[0] != 0).all()


def test_a_sequence_with_nothing_counted_is_zero():
    none = jnp.zeros((2, 3), bool)
    got = objective.token_objective(NEW, OLD, ROLLOUT, None, none, ADVANTAGE, config())
    np.testing.assert_array_equal(got, [0.0, 0.0])


# The likelihood of right rollouts.

RIGHT = jnp.array([True, False])
ONLY = config(right_likelihood=0.1)


def right_likelihood(new=NEW, right=RIGHT, tokens=1.5, scale=None):
    """Of two sequences with three and two counted tokens."""
    return objective.likelihood_objective(
        new, COUNTED, right, jnp.full(2, tokens), ONLY, scale=scale
    )


def test_the_likelihood_term_is_the_mean_over_the_tokens_of_right_rollouts():
    # The first alone: three tokens, 1.5 per sequence.
    value = right_likelihood()
    mean = LOG(0.6 * 0.2 * 0.5) / 3
    np.testing.assert_allclose(value, [0.1 * 2 * mean, 0.0], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.mean(right_likelihood(x)))(NEW)
    np.testing.assert_allclose(gradient, [[0.1 / 3] * 3, [0.0] * 3], rtol=1e-6)
    # Both: five tokens, 2.5 per sequence; a token that does not count is left out.
    both = right_likelihood(right=jnp.ones(2, bool), tokens=2.5)
    mean = LOG(0.6 * 0.2 * 0.5 * 0.3 * 0.6) / 5
    assert float(jnp.mean(both)) == pytest.approx(0.1 * mean, rel=1e-6)


def test_the_likelihood_term_of_a_sample_of_calls_estimates_that_of_all():
    scale = f32([[2.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    value = right_likelihood(scale=scale)
    expected = 0.1 * (2 * LOG(0.6) + LOG(0.5)) / 1.5
    np.testing.assert_allclose(value, [expected, 0.0], rtol=1e-6)


def test_the_likelihood_term_without_right_rollouts_or_with_tokens_that_do_not_count():
    none = right_likelihood(right=jnp.zeros(2, bool), tokens=0.0)
    np.testing.assert_array_equal(none, [0.0, 0.0])
    # A token that does not count and a rollout that is not right may be impossible.
    new = NEW.at[1].set(-jnp.inf)
    np.testing.assert_array_equal(right_likelihood(new), right_likelihood())
    second = right_likelihood(NEW.at[1, 2].set(-jnp.inf), ~RIGHT, 1.0)
    np.testing.assert_allclose(second, [0.0, 0.1 * LOG(0.3 * 0.6)], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(right_likelihood(x)))(new)
    np.testing.assert_array_equal(gradient[1], np.zeros(3))


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
