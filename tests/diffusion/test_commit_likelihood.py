"""The probability of committed sets, against enumeration and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffpo_jax.arrays.types import Draws, Prompts, Rollout
from diffpo_jax.config import LikelihoodConfig
from diffpo_jax.diffusion import anchors as anchor_lib
from diffpo_jax.diffusion import commit, commit_likelihood, likelihood
from diffpo_jax.diffusion.settings import EndOfText, SamplerSettings

LENGTH, VOCAB, MASK_ID, PROMPT, END = 3, 4, 1, 2, 3
POLICY = reference.table_policy(LENGTH, VOCAB, MASK_ID)
PROMPT_TOKENS, PROMPT_MASK = np.array([2, 3]), np.array([False, True])
MU, SIGMA = np.log(0.6), 0.7


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


# The probability of an interval.


@pytest.mark.parametrize(
    ("lo", "hi"),
    [(0.0, np.inf), (0.0, 0.3), (0.2, np.inf), (0.2, 0.3), (0.1, 4.0), (1e-9, 1e9), (0.5, 0.5001)],
)
@pytest.mark.parametrize(("mu", "sigma"), [(0.0, 1.0), (-2.3, 0.7), (3.0, 0.1)])
def test_log_interval_equals_scipy(lo, hi, mu, sigma):
    a, b = ((np.log(x) - mu) / sigma if x > 0 else -np.inf for x in (lo, hi))
    # Computed on the side on which the numbers do not cancel.
    p = stats.norm.sf(a) - stats.norm.sf(b) if a > 0 else stats.norm.cdf(b) - stats.norm.cdf(a)
    got = commit_likelihood.log_interval(*map(jnp.float64, (lo, hi, mu, sigma)))
    if p > 1e-290:
        assert float(got) == pytest.approx(np.log(p), rel=1e-7, abs=1e-12)
    assert np.isfinite(got)


value_and_gradients = jax.jit(
    jax.value_and_grad(commit_likelihood.log_interval, argnums=(0, 1, 2, 3))
)


@given(
    lo=st.sampled_from([0.0, 1e-30, 1e-6, 0.1, 1.0, 30.0]),
    size=st.sampled_from([0.0, 1e-7, 0.1, 5.0, np.inf]),
    mu=st.sampled_from([-8.0, -2.0, 0.0, 3.0]),
)
@settings(max_examples=60)
def test_log_interval_and_its_gradients_are_finite_in_float32(lo, size, mu):
    args = [jnp.asarray(x, jnp.float32) for x in (lo, lo + size, mu, 0.7)]
    value, grads = value_and_gradients(*args)
    assert np.isfinite(value)
    assert value <= 1e-6
    assert all(np.isfinite(g) for g in grads)


def test_probabilities_of_adjacent_intervals_sum_to_one():
    edges = jnp.asarray([0.0, 0.01, 0.2, 0.21, 1.0, 7.0, np.inf])
    mu, sigma = jnp.full(6, -1.0), jnp.full(6, 0.7)
    total = jnp.exp(commit_likelihood.log_interval(edges[:-1], edges[1:], mu, sigma)).sum()
    assert float(total) == pytest.approx(1, abs=1e-12)


# The bounds of a set.


@given(st.integers(0, 1000), st.floats(0.01, 4.0))
@settings(max_examples=60)
def test_rule_commits_a_set_iff_gamma_is_within_its_bounds(seed, gamma):
    rng = np.random.default_rng(seed)
    h = jnp.asarray(rng.uniform(0, 1.5, (1, 5)))
    open_ = jnp.asarray(rng.random((1, 5)) < 0.7).at[0, 0].set(True)
    chosen = commit.entropy_bounded(h, h, open_, jnp.full(1, gamma))
    lo, hi = commit_likelihood.bounds(h, chosen, jnp.all(chosen == open_, axis=1))
    assert lo[0] <= gamma < hi[0]
    for inside, expected in ((lo[0], True), (lo[0] * (1 - 1e-9) - 1e-12, False)):
        if inside >= 0:
            again = commit.entropy_bounded(h, h, open_, jnp.full(1, inside))
            assert bool((again == chosen).all()) == expected
    if np.isfinite(hi[0]):
        again = commit.entropy_bounded(h, h, open_, hi)
        assert (again & ~chosen).any()


# Enumeration of every way to write a completion, with its probability.


def paths(params, scope, block_length, stop, mu=MU, sigma=SIGMA):
    """[(tokens, commit_call, sampled, probability)] of all rollouts of one prompt."""
    out = []

    @functools.cache
    def sets(state):
        """(U, lo, hi) of every set the rule can commit in a state; and its distributions."""
        state = np.array(state)
        logits = reference.table_logits(params, PROMPT_TOKENS, PROMPT_MASK, state)
        log_p = reference.log_probs(logits, MASK_ID)
        h = reference.entropy(log_p)
        masked = [k for k in range(LENGTH) if state[k] == MASK_ID]
        block = masked[0] // block_length
        order = sorted((k for k in masked if k // block_length == block), key=lambda k: h[k])
        excess = [h[order[: n + 1]].sum() - h[order[n]] for n in range(len(order))]
        bounds = [0.0, *excess[1:], np.inf]
        return [(order[: n + 1], bounds[n], bounds[n + 1]) for n in range(len(order))], log_p

    def interval(lo, hi):
        low, high = (stats.norm.cdf((np.log(x) - mu) / sigma) if x > 0 else 0.0 for x in (lo, hi))
        return high - low

    def go(state, calls, number, p, lo, hi):
        choices, log_p = sets(tuple(state))
        for chosen, below, above in choices:
            if scope == "call":
                share, now = interval(below, above), (lo, hi)
            else:
                now = (max(lo, below), min(hi, above))
                share = 1.0 if now[0] < now[1] else 0.0
            if not share:
                continue
            real = [t for t in range(VOCAB) if t != MASK_ID]
            for drawn in np.ndindex(*[len(real)] * len(chosen)):
                new, new_calls, q = list(state), list(calls), p * share
                for k, i in zip(chosen, drawn):
                    new[k], new_calls[k] = real[i], number
                    q *= np.exp(log_p[k, real[i]])
                first = next((k for k in range(LENGTH) if new[k] == END), LENGTH)
                finished = stop and first < LENGTH and MASK_ID not in new[:first]
                if finished or MASK_ID not in new:
                    sampled = [c > 0 for c in new_calls]
                    done = [c or number + 1 for c in new_calls]
                    tokens = [t if s else END for t, s in zip(new, sampled)]
                    total = q * (interval(*now) if scope == "prompt" else 1.0)
                    out.append((tokens, done, sampled, number, total))
                else:
                    go(new, new_calls, number + 1, q, *now)

    go([MASK_ID] * LENGTH, [0] * LENGTH, 1, 1.0, 0.0, np.inf)
    return out


def rollout_of(listed):
    tokens, calls, sampled, nfe, p = map(np.array, zip(*listed))
    rollout = Rollout(*[None] * len(Rollout._fields))._replace(
        tokens=jnp.asarray(tokens, jnp.int32),
        commit_call=jnp.asarray(calls, jnp.int32),
        sampled=jnp.asarray(sampled),
        logprob=jnp.zeros(tokens.shape, jnp.float64),
        nfe=jnp.asarray(nfe, jnp.int32),
        forced=jnp.zeros(len(nfe), bool),
    )
    rows = len(nfe)
    prompts = Prompts(
        jnp.tile(jnp.asarray(PROMPT_TOKENS), (rows, 1)),
        jnp.tile(jnp.asarray(PROMPT_MASK), (rows, 1)),
    )
    return prompts, rollout, p


@functools.partial(jax.jit, static_argnames=("scope", "block_length", "stop"))
def log_probability(params, prompts, rollout, scope, block_length, stop):
    """Log-probability of tokens and sets together, by the code under test."""
    rows, end = rollout.nfe.shape[0], EndOfText((END,), END, stop)
    settings = SamplerSettings(LENGTH, block_length, 1.0, end=end)
    draws = Draws(anchor_lib.every_call(rows, LENGTH), jnp.zeros((rows, PROMPT), bool))
    tokens = likelihood.anchored_log_prob(
        POLICY, params, prompts, rollout, draws, LikelihoodConfig(), settings
    )
    lo, hi = commit_likelihood.call_bounds(POLICY, params, prompts, rollout, settings)
    mu, sigma = jnp.full(rows, MU), jnp.full(rows, SIGMA)
    sets = commit_likelihood.log_selection(lo, hi, mu, sigma, scope)
    return jnp.sum(jnp.where(rollout.sampled, tokens, 0), axis=1) + jnp.sum(sets, axis=1)


CASES = [("call", LENGTH, False), ("call", 2, False), ("call", LENGTH, True),
         ("prompt", LENGTH, False), ("prompt", 2, True)]  # fmt: skip


def model(seed):
    params = reference.table_params(seed, PROMPT, LENGTH, VOCAB)
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)


@pytest.mark.parametrize(("scope", "block_length", "stop"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_tokens_and_sets_together_sum_to_one(scope, block_length, stop, seed):
    params = model(seed)
    listed = paths(params, scope, block_length, stop)
    prompts, rollout, p = rollout_of(listed)
    assert p.sum() == pytest.approx(1, abs=1e-9)
    got = np.exp(log_probability(params, prompts, rollout, scope, block_length, stop))
    np.testing.assert_allclose(got, p, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize(("scope", "block_length", "stop"), CASES)
def test_score_gradient_equals_that_of_the_expected_reward(scope, block_length, stop):
    params, step = model(2), 1e-5
    listed = paths(params, scope, block_length, stop)
    prompts, rollout, p = rollout_of(listed)

    def reward(tokens, calls):
        return float(np.sin(3.1 * np.dot(tokens, [1, 2, 5])) + 0.3 * max(calls))

    rewards = np.array([reward(tokens, calls) for tokens, calls, *_ in listed])

    def weighted(table):
        changed = params | {"denoiser": params["denoiser"] | {"table": table}}
        return jnp.sum(
            p * rewards * log_probability(changed, prompts, rollout, scope, block_length, stop)
        )

    def expected(table):
        changed = params | {"denoiser": params["denoiser"] | {"table": table}}
        return sum(q * reward(t, c) for t, c, _, _, q in paths(changed, scope, block_length, stop))

    table = params["denoiser"]["table"]
    gradient, rng = np.asarray(jax.grad(weighted)(jnp.asarray(table))), np.random.default_rng(1)
    direction = rng.normal(size=table.shape)  # changes every entry
    slope = (expected(table + step * direction) - expected(table - step * direction)) / (2 * step)
    assert (gradient * direction).sum() == pytest.approx(slope, abs=1e-6)
    if (scope, block_length, stop) != CASES[0]:
        return

    # Without the sets' part the gradient differs.
    def tokens_only(table):
        changed = params | {"denoiser": params["denoiser"] | {"table": table}}
        rows = rollout.nfe.shape[0]
        draws = Draws(anchor_lib.every_call(rows, LENGTH), jnp.zeros((rows, PROMPT), bool))
        settings = SamplerSettings(LENGTH, LENGTH, 1.0)
        log_p = likelihood.anchored_log_prob(
            POLICY, changed, prompts, rollout, draws, LikelihoodConfig(), settings
        )
        return jnp.sum((p * rewards)[:, None] * jnp.where(rollout.sampled, log_p, 0))

    other = np.asarray(jax.grad(tokens_only)(jnp.asarray(table)))
    assert np.linalg.norm(other - gradient) > 0.03 * np.linalg.norm(gradient)


def test_calls_forced_by_the_cap_have_no_bounds():
    params = model(0)
    prompts, rollout, _ = rollout_of(paths(params, "call", LENGTH, False))
    forced = rollout._replace(forced=rollout.nfe == 2)
    free, capped = (
        commit_likelihood.call_bounds(
            POLICY, params, prompts, r, SamplerSettings(LENGTH, LENGTH, 1.0, max_calls=cap)
        )
        for r, cap in ((rollout, 0), (forced, 2))
    )
    at = np.asarray(forced.forced)
    np.testing.assert_array_equal(capped[0][at, 1], 0)
    np.testing.assert_array_equal(capped[1][at, 1], np.inf)
    np.testing.assert_array_equal(capped[0][~at], free[0][~at, :2])
    np.testing.assert_array_equal(capped[0][:, 0], free[0][:, 0])
    assert np.isinf(free[1][rollout.nfe < 3, 2]).all()  # of calls that were not made
