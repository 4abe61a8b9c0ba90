import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.diffusion import vocabulary

MASK_ID = 2
LOGITS = np.random.default_rng(0).normal(scale=2, size=(3, 4, 5)).astype(np.float32)


def log_p(temperature=1.0, logits=LOGITS):
    return vocabulary.log_probs(jnp.asarray(logits), MASK_ID, temperature)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_log_probs_sum_to_one_without_the_mask(temperature):
    got = np.asarray(log_p(temperature), np.float64)
    assert (got[..., MASK_ID] == -np.inf).all()
    np.testing.assert_allclose(np.exp(got).sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(got, reference.log_probs(LOGITS, MASK_ID, temperature), atol=1e-5)


def test_the_mask_logit_is_never_read():
    other = LOGITS.copy()
    other[..., MASK_ID] = 1e4
    np.testing.assert_array_equal(log_p(), log_p(logits=other))


def test_temperature_by_hand():
    # Two tokens 2 apart, and the mask: at T = 0.5 the odds are e^4.
    logits = jnp.array([0.0, 2.0, 7.0])
    got = vocabulary.log_probs(logits, 2, 0.5)
    np.testing.assert_allclose(got[1] - got[0], 4.0, rtol=1e-6)


def test_token_log_prob_reads_the_entry_of_each_token():
    tokens = np.array([[0, 1, 3, 4], [4, 3, 1, 0], [1, 1, 0, 3]])
    got = vocabulary.token_log_prob(log_p(), jnp.asarray(tokens))
    expected = [[log_p()[b, k, tokens[b, k]] for k in range(4)] for b in range(3)]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_entropy_of_a_uniform_distribution(count):
    logits = jnp.zeros((1, count + 1))
    got = vocabulary.entropy(vocabulary.log_probs(logits, count, 1.0))
    np.testing.assert_allclose(got, [math.log(count)], rtol=1e-6)


def test_entropy_of_a_certain_token_is_exactly_zero():
    logits = jnp.array([[0.0, 500.0, 3.0, 0.0], [-np.inf, 0.0, 1.0, -np.inf]])
    got = vocabulary.entropy(vocabulary.log_probs(logits, 2, 1.0))
    np.testing.assert_array_equal(got, [0.0, 0.0])


def test_entropy_by_hand():
    p = np.array([0.5, 0.25, 0.25])
    logits = jnp.asarray([*np.log(p), 9.0])
    got = vocabulary.entropy(vocabulary.log_probs(logits[None], 3, 1.0))
    np.testing.assert_allclose(got, [1.5 * math.log(2)], rtol=1e-6)


def test_entropy_has_a_finite_gradient():
    def total(logits):
        return jnp.sum(vocabulary.entropy(vocabulary.log_probs(logits, MASK_ID, 1.0)))

    logits = jnp.asarray(LOGITS).at[0, 0, 1].set(300.0).at[0, 1, 3].set(-jnp.inf)
    gradient = np.asarray(jax.grad(total)(logits))
    assert np.isfinite(gradient).all()
    assert (gradient[..., MASK_ID] == 0).all()
    # dH/dlogit_i = -p_i (log p_i + H)
    log_p = reference.log_probs(LOGITS[1], MASK_ID)
    finite = np.where(np.isfinite(log_p), log_p, 0)
    expected = -np.exp(log_p) * (finite + reference.entropy(log_p)[:, None])
    np.testing.assert_allclose(gradient[1], expected, atol=1e-5)


KEYS = jax.random.split(jax.random.key(1), 3)


def test_temperature_zero_takes_the_most_likely_token():
    got = vocabulary.sample(log_p(), KEYS, 0.0)
    without = np.where(np.arange(5) == MASK_ID, -np.inf, LOGITS)
    np.testing.assert_array_equal(got, without.argmax(-1))
    np.testing.assert_array_equal(got, vocabulary.sample(log_p(), KEYS[::-1], 0.0))


def test_a_row_is_drawn_by_its_key_alone():
    together = vocabulary.sample(log_p(), KEYS, 1.0)
    alone = [vocabulary.sample(log_p()[i : i + 1], KEYS[i : i + 1], 1.0)[0] for i in range(3)]
    np.testing.assert_array_equal(together, alone)
    backwards = vocabulary.sample(log_p()[::-1], KEYS[::-1], 1.0)
    np.testing.assert_array_equal(together, backwards[::-1])
    other = jax.random.split(jax.random.key(2), 3)
    assert (np.asarray(together) != np.asarray(vocabulary.sample(log_p(), other, 1.0))).any()


def test_draws_follow_the_distribution():
    rows = 4000
    one = log_p()[:1]
    keys = jax.random.split(jax.random.key(3), rows)
    drawn = np.asarray(vocabulary.sample(jnp.repeat(one, rows, axis=0), keys, 1.0))
    p = np.exp(np.asarray(one[0], np.float64))
    for position in range(4):
        share = np.bincount(drawn[:, position], minlength=5) / rows
        # Five standard deviations of each share; no draw of the mask at all.
        assert (np.abs(share - p[position]) <= 5 * np.sqrt(p[position] / rows)).all()
    # Positions are independent: the joint of two is the product of their shares.
    both = np.mean((drawn[:, 0] == 0) & (drawn[:, 1] == 0))
    assert abs(both - p[0, 0] * p[1, 0]) < 5 * np.sqrt(p[0, 0] * p[1, 0] / rows) + 1e-3
