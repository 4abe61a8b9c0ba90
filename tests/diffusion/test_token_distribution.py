"""Log-probabilities, entropies, draws and readings, against numpy and by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import stats

from diffpo_jax.config import ModelConfig, ThresholdConfig
from diffpo_jax.diffusion import token_distribution
from diffpo_jax.diffusion.settings import Rule, SamplerSettings
from diffpo_jax.models.families import make_policy

MASK_ID = 2
LOGITS = np.random.default_rng(0).normal(scale=2, size=(3, 4, 5)).astype(np.float32)


def log_p(temperature=1.0, logits=LOGITS):
    return token_distribution.log_probs(jnp.asarray(logits), MASK_ID, temperature)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_log_probs_sum_to_one_without_the_mask(temperature):
    got = np.asarray(log_p(temperature), np.float64)
    assert (got[..., MASK_ID] == -np.inf).all()
    np.testing.assert_allclose(np.exp(got).sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(got, reference.log_probs(LOGITS, MASK_ID, temperature), atol=1e-5)


def test_mask_logit_is_never_read():
    other = LOGITS.copy()
    other[..., MASK_ID] = 1e4
    np.testing.assert_array_equal(log_p(), log_p(logits=other))


def test_temperature_by_hand():
    # Two logits that differ by 2, and the mask: at T = 0.5 the odds are e^4.
    logits = jnp.array([0.0, 2.0, 7.0])
    got = token_distribution.log_probs(logits, 2, 0.5)
    np.testing.assert_allclose(got[1] - got[0], 4.0, rtol=1e-6)


def test_token_log_prob_reads_the_entry_of_each_token():
    tokens = np.array([[0, 1, 3, 4], [4, 3, 1, 0], [1, 1, 0, 3]])
    got = token_distribution.token_log_prob(log_p(), jnp.asarray(tokens))
    expected = [[log_p()[b, k, tokens[b, k]] for k in range(4)] for b in range(3)]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_entropy_of_a_uniform_distribution(count):
    logits = jnp.zeros((1, count + 1))
    got = token_distribution.entropy(token_distribution.log_probs(logits, count, 1.0))
    np.testing.assert_allclose(got, [math.log(count)], rtol=1e-6)


def test_entropy_of_a_certain_token_is_exactly_zero():
    logits = jnp.array([[0.0, 500.0, 3.0, 0.0], [-np.inf, 0.0, 1.0, -np.inf]])
    got = token_distribution.entropy(token_distribution.log_probs(logits, 2, 1.0))
    np.testing.assert_array_equal(got, [0.0, 0.0])


def test_entropy_by_hand():
    p = np.array([0.5, 0.25, 0.25])
    logits = jnp.asarray([*np.log(p), 9.0])
    got = token_distribution.entropy(token_distribution.log_probs(logits[None], 3, 1.0))
    np.testing.assert_allclose(got, [1.5 * math.log(2)], rtol=1e-6)


def test_entropy_has_a_finite_gradient():
    def total(logits):
        return jnp.sum(
            token_distribution.entropy(token_distribution.log_probs(logits, MASK_ID, 1.0))
        )

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


def draw(log_p, keys, temperature=1.0):
    u = jax.vmap(lambda key: jax.random.uniform(key, (log_p.shape[1], 2)))(keys)
    return np.asarray(token_distribution.sample(log_p, u, temperature))


def test_temperature_zero_takes_the_most_likely_token():
    got = draw(log_p(), KEYS, 0.0)
    unmasked = np.where(np.arange(5) == MASK_ID, -np.inf, LOGITS)
    np.testing.assert_array_equal(got, unmasked.argmax(-1))
    np.testing.assert_array_equal(got, draw(log_p(), KEYS[::-1], 0.0))


def test_draws_follow_the_distribution():
    rows = 4000
    one = log_p()[:1]
    keys = jax.random.split(jax.random.key(3), rows)
    drawn = np.asarray(draw(jnp.repeat(one, rows, axis=0), keys, 1.0))
    p = np.exp(np.asarray(one[0], np.float64))
    for position in range(4):
        share = np.bincount(drawn[:, position], minlength=5) / rows
        # Within five standard deviations; the mask is never drawn.
        assert (np.abs(share - p[position]) <= 5 * np.sqrt(p[position] / rows)).all()
    # Positions are independent: the joint share of two is the product of their shares.
    both = np.mean((drawn[:, 0] == 0) & (drawn[:, 1] == 0))
    assert abs(both - p[0, 0] * p[1, 0]) < 5 * np.sqrt(p[0, 0] * p[1, 0] / rows) + 1e-3


def test_draws_by_hand_from_given_numbers():
    invert = token_distribution.invert_cumulated
    weights = jnp.array([0.0, 1.0, 0.0, 3.0, 0.0])
    below_one = np.float32(1 - 2**-24)
    for u, index in [(0.0, 1), (0.2499, 1), (0.25, 3), (0.6, 3), (below_one, 3)]:
        assert int(invert(weights, jnp.float32(u))) == index
    np.testing.assert_array_equal(invert(jnp.zeros((2, 3)), jnp.zeros(2)), [2, 2])
    assert int(invert(jnp.full(3, jnp.nan), jnp.float32(0.5))) == 2


@pytest.mark.parametrize("vocab", [5, 23, 36, 101])
def test_draws_of_a_diverged_model_are_tokens(vocab):
    drawn = draw(jnp.full((3, 4, vocab), jnp.nan), KEYS)
    assert ((drawn >= 0) & (drawn < vocab)).all()


def many_draws(p, count, chunk=500):
    """Draws of one distribution, each with a key of its own."""
    log_p = jnp.log(jnp.asarray(p, jnp.float32))
    keys = jax.random.split(jax.random.key(4), count).reshape(-1, chunk)

    def some(keys):
        same = jnp.broadcast_to(log_p, (chunk, 1, len(p)))
        u = jax.vmap(lambda key: jax.random.uniform(key, (1, 2)))(keys)
        return token_distribution.sample(same, u, 1.0)[:, 0]

    return np.bincount(np.asarray(jax.jit(lambda k: jax.lax.map(some, k))(keys)).ravel())


def assert_fits(counts, expected):
    """Chi-square of counts, at 1 in 10^6."""
    statistic = np.sum((counts - expected) ** 2 / expected)
    assert stats.chi2.sf(statistic, len(counts) - 1) > 1e-6


@pytest.mark.parametrize("vocab", [29, 36, 200])  # a prime, a square, parts of 10
def test_single_unlikely_tokens_are_drawn_as_often_as_their_probability(vocab):
    # One token has 90 %; those left share the rest from 1 to 3.
    tail = np.linspace(1, 3, vocab - 1)
    p = np.insert(0.1 * tail / tail.sum(), vocab // 3, 0.9)
    count = 200_000
    counts = np.pad(many_draws(p, count), (0, vocab))[:vocab]
    assert_fits(counts, count * p)


@pytest.mark.parametrize("share", [0.01, 0.002])
def test_the_tail_of_a_large_vocabulary_is_drawn(share):
    # As many tokens as LLaDA's.  Gumbel-max in float32 drew this tail in 0.41 % and 0 % of draws.
    vocab, count = 126_464, 5_000
    p = np.full(vocab, share / (vocab - 1))
    p[70_000] = 1 - share
    counts = np.pad(many_draws(p, count, chunk=10), (0, vocab))[:vocab]
    in_tail = count - counts[70_000]
    assert abs(in_tail - count * share) < 5 * np.sqrt(count * share)
    if share == 0.01:
        bins = np.delete(counts, 70_000)[:126_460].reshape(5, -1).sum(axis=1)
        assert_fits(bins, np.full(5, bins.sum() / 5))


# Readings of a call at its positions.

ROWS, LENGTH, SIZE = 3, 7, 9
POLICY, PARAMS = reference.tiny_policy(vocab=SIZE, mask_id=2)
HIDDEN = jnp.asarray(np.random.default_rng(5).normal(size=(ROWS, LENGTH, 16)), jnp.float32)
WANTED = jnp.asarray(np.random.default_rng(6).random((ROWS, LENGTH)) < 0.6).at[2].set(False)


def read(wanted=WANTED, **how):
    settings = SamplerSettings(LENGTH, LENGTH, **({"temperature": 1.0} | how))
    run = jax.jit(
        lambda: token_distribution.read(POLICY, PARAMS, HIDDEN, wanted, wanted, KEYS, settings)
    )
    return jax.device_get(run())


@pytest.mark.parametrize("ranking", ["entropy", "confidence", "margin", "drawn", "random"])
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_readings_equal_numpy(ranking, temperature):
    at = read(ranking=ranking, temperature=temperature)
    logits = np.asarray(POLICY.logits(PARAMS, HIDDEN))
    for row, k in zip(*np.nonzero(WANTED)):
        log_p = reference.log_probs(logits[row, k], 2)
        p, token = np.exp(log_p), at.token[row, k]
        tempered = reference.log_probs(logits[row, k], 2, temperature or 1.0)
        assert at.logprob[row, k] == pytest.approx(tempered[token], abs=1e-5)
        assert at.entropy[row, k] == pytest.approx(reference.entropy(log_p[None])[0], abs=1e-5)
        second, first = np.sort(p)[-2:]
        error = {
            "entropy": at.entropy[row, k],
            "confidence": -first,
            "margin": second - first,
            "drawn": -p[token],
        }
        if ranking == "random":
            assert 0 <= at.error[row, k] < 1
        else:
            assert at.error[row, k] == pytest.approx(error[ranking], abs=1e-5)
        if temperature == 0:
            assert token == np.argmax(log_p)
    assert not any(np.asarray(x)[~np.asarray(WANTED)].any() for x in jax.tree.leaves(at))


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_head_by_state_also_gets_the_most_probable_token(temperature, chunk):
    at = read(temperature=temperature, chunk=chunk, rule=Rule("state"))
    logits = np.asarray(POLICY.logits(PARAMS, HIDDEN))
    for row, k in zip(*np.nonzero(WANTED)):
        assert at.best[row, k] == np.argmax(reference.log_probs(logits[row, k], 2))
    assert read(temperature=temperature).best is None


@pytest.mark.parametrize("chunk", [None, 2])
def test_draws_of_a_row_depend_only_on_its_key(chunk):
    settings = SamplerSettings(LENGTH, LENGTH, temperature=1.0, chunk=chunk)

    def tokens(rows, keys=KEYS):
        rows = np.asarray(rows)
        read = jax.jit(
            lambda h, w, k: token_distribution.read(POLICY, PARAMS, h, w, w, k, settings)
        )
        everywhere = jnp.ones((len(rows), LENGTH), bool)
        return np.asarray(read(HIDDEN[rows], everywhere, keys[rows]).token)

    together = tokens([0, 1, 2])
    np.testing.assert_array_equal(together, np.concatenate([tokens([i]) for i in range(3)]))
    np.testing.assert_array_equal(together, tokens([2, 1, 0])[::-1])
    other = jax.random.split(jax.random.key(2), 3)
    assert (together != tokens([0, 1, 2], other)).any()


def test_random_errors_are_uniform_and_differ_by_row_and_position():
    errors = read(jnp.ones((ROWS, LENGTH), bool), ranking="random").error
    assert len(set(errors.ravel().tolist())) == errors.size
    assert errors.min() < 0.25
    assert errors.max() > 0.75


@pytest.mark.parametrize("chunk", [1, 2, 3, LENGTH, 100])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_chunks_do_not_change_readings(chunk, temperature):
    whole, parts = read(temperature=temperature), read(temperature=temperature, chunk=chunk)
    np.testing.assert_array_equal(parts.token, whole.token)
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_only_chunks_with_a_wanted_position_are_read():
    counted = []

    def logits(params, states):
        jax.debug.callback(lambda: counted.append(states.shape[1]))
        return POLICY.logits(params, states)

    most = int(WANTED.sum(axis=1).max())
    settings = SamplerSettings(LENGTH, LENGTH, 1.0, chunk=2)
    policy = POLICY._replace(logits=logits)
    jax.jit(
        lambda: token_distribution.read(policy, PARAMS, HIDDEN, WANTED, WANTED, KEYS, settings)
    )()
    jax.effects_barrier()
    assert counted == [2] * -(-most // 2)


def test_chunks_avoid_an_array_of_all_distributions():
    """At LLaDA's vocabulary, by the memory analysis of the compiled program."""
    rows, length, width, vocab, chunk = 2, 64, 8, 126_464, 2
    policy, params = reference.tiny_policy(vocab=vocab, mask_id=126_336, width=width)
    flags = jax.ShapeDtypeStruct((rows, length), bool)
    hidden = jax.ShapeDtypeStruct((rows, length, width), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))

    def memory(chunk):
        settings = SamplerSettings(length, length, 1.0, chunk=chunk)
        run = jax.jit(lambda p, *args: token_distribution.read(policy, p, *args, settings))
        compiled = run.lower(params, hidden, flags, flags, keys).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    one_array = 4 * rows * length * vocab
    assert memory(0) > one_array
    assert memory(chunk) < one_array / 4  # a few arrays of 1/32 the size


def test_rows_of_the_embedding_without_a_token_are_never_drawn():
    """Of eight rows, six belong to tokens; the others would have all of the probability."""
    model, threshold = (
        ModelConfig(width=16, layers=1, heads=2, kv_heads=2, ff=16),
        ThresholdConfig(),
    )
    sizes = {"vocab": 8, "mask_id": 5, "platform": "cpu"}
    policy = make_policy(model, threshold, tokens=6, **sizes)
    params = reference.random_params(policy, 0)
    unembed = params["denoiser"]["unembed"].at[:, 6:].multiply(50.0)
    params["denoiser"]["unembed"] = unembed
    states = jax.random.normal(jax.random.key(0), (2, 3, 16))
    logits = policy.logits(params, states)
    assert np.all(np.asarray(logits)[..., 6:] == -np.inf)
    whole = make_policy(model, threshold, **sizes).logits(params, states)
    np.testing.assert_array_equal(logits[..., :6], whole[..., :6])
    drawn = token_distribution.log_probs(logits, 5, 0.7)
    u = jnp.linspace(0, 1, 12, endpoint=False).reshape(2, 3, 2)
    assert token_distribution.sample(drawn, u, 0.7).max() < 5

    def value(x):
        own = params | {"denoiser": params["denoiser"] | {"unembed": x}}
        known = token_distribution.log_probs(policy.logits(own, states), 5, 1.0)
        return jnp.sum(token_distribution.entropy(known)) + jnp.sum(known[..., 0])

    gradient = jax.grad(value)(unembed)
    assert np.isfinite(gradient).all()
    assert not gradient[:, 6:].any()
