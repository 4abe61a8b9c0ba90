"""End of text: when a row is finished, what is filled in, and where an end may be drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffpo_jax.arrays.types import Draws
from diffpo_jax.config import LikelihoodConfig
from diffpo_jax.diffusion import end_of_text, likelihood, token_distribution, unmask
from diffpo_jax.diffusion.settings import EndOfText, SamplerSettings

LENGTH, VOCAB, MASK_ID, PROMPT, END = 4, 4, 1, 2, 3
ROWS = 64
POLICY = reference.table_policy(LENGTH, VOCAB, MASK_ID)
PARAMS = reference.table_params(5, PROMPT, LENGTH, VOCAB)
PROMPTS = reference.some_prompts(1, ROWS, PROMPT, VOCAB)
KEYS = jax.random.split(jax.random.key(2), ROWS)
GAMMAS = jnp.tile(jnp.asarray([0.0, 0.5, 1.0, 2.0], jnp.float32), ROWS // 4)

rows_of = hnp.arrays(np.int32, (2, LENGTH), elements=st.integers(0, VOCAB - 1))
flags = hnp.arrays(bool, (2, LENGTH))


@functools.cache
def rollouts(**how):
    block, how = how.pop("block_length", LENGTH), {"ids": (END,), "fill": END} | how
    settings = SamplerSettings(LENGTH, block, 1.0, end=EndOfText(**how))

    def threshold(params, features, keys):
        return GAMMAS, jnp.zeros_like(GAMMAS)

    run = jax.jit(lambda: unmask.unmask(POLICY, PARAMS, PROMPTS, threshold, KEYS, settings))
    return jax.device_get(run())


@given(rows_of, flags)
def test_row_is_finished_at_an_end_with_nothing_masked_before_it(tokens, committed):
    got = end_of_text.is_finished(jnp.asarray(tokens), jnp.asarray(committed), EndOfText((END, 2)))
    for row in range(2):
        expected = any(
            tokens[row, k] in (END, 2) and committed[row, : k + 1].all() for k in range(LENGTH)
        )
        assert bool(got[row]) == expected


@pytest.mark.parametrize("block_length", [LENGTH, 2])
def test_rest_is_filled_and_not_counted(block_length):
    stopped = rollouts(stop=True, block_length=block_length)
    whole = rollouts(block_length=block_length)
    early = 0
    for row in range(ROWS):
        tokens, calls = stopped.tokens[row], stopped.commit_call[row]
        sampled, nfe = stopped.sampled[row], stopped.nfe[row]
        np.testing.assert_array_equal(sampled, calls <= nfe)
        # The drawn tokens are those of a rollout without the stop, call by call.
        np.testing.assert_array_equal(tokens[sampled], whole.tokens[row][sampled])
        np.testing.assert_array_equal(calls[sampled], whole.commit_call[row][sampled])
        assert sorted(set(calls[sampled])) == list(range(1, nfe + 1))
        assert (tokens[~sampled] == END).all()
        assert (calls[~sampled] == nfe + 1).all()
        assert (stopped.logprob[row][~sampled] == 0).all()
        if not sampled.all():
            early += 1
            first = int(np.flatnonzero((tokens == END) & sampled)[0])
            assert sampled[:first].all()
            assert (whole.nfe[row] > nfe) or block_length == LENGTH
        assert nfe <= whole.nfe[row]
    assert 5 < early < ROWS


def test_row_stops_at_the_first_call_that_allows_it():
    stopped = rollouts(stop=True)
    for row in range(ROWS):
        tokens, calls, nfe = stopped.tokens[row], stopped.commit_call[row], stopped.nfe[row]
        for call in range(1, nfe):  # after these calls something was left to do
            before = [k for k in range(LENGTH) if tokens[k] == END and calls[k] <= call]
            assert not any((calls[: k + 1] <= call).all() for k in before)


def test_suppression_never_draws_no_end():
    assert not (rollouts(suppress="never").tokens == END).any()
    assert (rollouts().tokens == END).any()


@pytest.mark.parametrize("stop", [False, True])
def test_suppression_while_open_draws_ends_only_after_committed_positions(stop):
    rollout = rollouts(suppress="while_open", stop=stop)
    ends = 0
    for row in range(ROWS):
        for k in np.flatnonzero((rollout.tokens[row] == END) & rollout.sampled[row]):
            calls = rollout.commit_call[row]
            assert (calls[:k] < calls[k]).all()
            ends += 1
    assert ends > 3


def test_suppression_last_commits_ends_after_all_others():
    one_a_call = np.asarray(GAMMAS == 0)

    def mean_call(rollout):
        ends = (rollout.tokens == END) & one_a_call[:, None]
        return rollout.commit_call[ends].mean()

    assert mean_call(rollouts(suppress="last")) > mean_call(rollouts()) + 0.7
    # Positions drawn as an end get the largest error; nothing else changes.
    settings = SamplerSettings(LENGTH, LENGTH, 1.0, end=EndOfText((END,), suppress="last"))
    hidden = jax.random.normal(jax.random.key(4), (ROWS, LENGTH, VOCAB))
    all_ = jnp.ones((ROWS, LENGTH), bool)
    at = token_distribution.read(POLICY, PARAMS, hidden, all_, all_, KEYS, settings)
    free = token_distribution.read(
        POLICY, PARAMS, hidden, all_, all_, KEYS, settings._replace(end=EndOfText())
    )
    np.testing.assert_array_equal(at.token, free.token)
    ends = np.asarray(at.token == END)
    assert ends.any()
    assert (np.asarray(at.error)[ends] == np.inf).all()
    np.testing.assert_array_equal(np.asarray(at.error)[~ends], np.asarray(free.error)[~ends])


@pytest.mark.parametrize("suppress", ["none", "never", "while_open", "last"])
@pytest.mark.parametrize("stop", [False, True])
def test_scorer_gives_the_recorded_log_probs(suppress, stop):
    rollout = rollouts(suppress=suppress, stop=stop)
    anchors = jnp.tile(jnp.arange(LENGTH, dtype=jnp.int32), (ROWS, 1))
    draws = Draws(anchors, jnp.zeros((ROWS, PROMPT), bool))
    settings = SamplerSettings(LENGTH, LENGTH, 1.0, end=EndOfText((END,), END, stop, suppress))

    def score(params, draws):
        return likelihood.anchored_log_prob(
            POLICY, params, PROMPTS, jax.tree.map(jnp.asarray, rollout), draws,
            LikelihoodConfig(), settings,
        )  # fmt: skip

    got = np.asarray(score(PARAMS, draws))
    sampled = rollout.sampled
    np.testing.assert_allclose(got[sampled], rollout.logprob[sampled], atol=1e-5)

    # Scored from the prompt, no token is impossible and every gradient is finite.
    one = draws._replace(anchors=anchors[:, :1])
    surrogate = np.asarray(score(PARAMS, one))
    assert np.isfinite(surrogate).all()

    def total(denoiser):
        log_p = score(PARAMS | {"denoiser": denoiser}, one)
        return jnp.sum(jnp.where(sampled, jnp.exp(log_p - surrogate), 0))

    gradient = jax.grad(total)(PARAMS["denoiser"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
