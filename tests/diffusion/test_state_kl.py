"""KL divergences between states of a rollout, against a loop in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffpo_jax.diffusion import state_kl, unmask
from diffpo_jax.diffusion.settings import SamplerSettings

LENGTH, VOCAB, MASK_ID, PROMPT, ROWS = 4, 4, 1, 2, 5
PARAMS = reference.table_params(3, PROMPT, LENGTH, VOCAB)
POLICY = reference.table_policy(LENGTH, VOCAB, MASK_ID)
PROMPTS = reference.some_prompts(1, ROWS, PROMPT, VOCAB)


def test_every_entry_equals_that_of_a_loop():
    gammas = jnp.array([0.0, 0.2, 0.5, 1.0, jnp.inf])

    def threshold(params, features, keys):
        return gammas, jnp.zeros_like(gammas)

    settings = SamplerSettings(LENGTH, LENGTH, 0.7, 0)
    keys = jax.random.split(jax.random.key(2), ROWS)
    rollout = jax.jit(lambda: unmask.unmask(POLICY, PARAMS, PROMPTS, threshold, keys, settings))()
    rollout = rollout._replace(sampled=rollout.sampled.at[1, 2].set(False))
    matrix_of = jax.jit(functools.partial(state_kl.kl_from_states, POLICY, settings=settings))
    got = np.asarray(matrix_of(PARAMS, PROMPTS, rollout))
    tokens, calls = np.asarray(rollout.tokens), np.asarray(rollout.commit_call)
    assert len(set(np.asarray(rollout.nfe))) > 2
    expected = np.zeros((ROWS, LENGTH, LENGTH))
    for row, k in np.ndindex(ROWS, LENGTH):
        if not rollout.sampled[row, k]:
            continue

        def log_p_at(s, row=row, k=k):
            state = np.where(calls[row] <= s, tokens[row], MASK_ID)
            prompt, mask = np.asarray(PROMPTS.tokens[row]), np.asarray(PROMPTS.mask[row])
            logits = reference.table_logits(PARAMS, prompt, mask, state)
            return np.delete(reference.log_probs(logits, MASK_ID, 0.7)[k], MASK_ID)

        true = log_p_at(calls[row, k] - 1)
        for s in range(calls[row, k] - 1):
            expected[row, k, s] = np.sum(np.exp(true) * (true - log_p_at(s)))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert expected.max() > 0.1


@given(hnp.arrays(np.float32, (2, 5), elements=st.floats(-30, 30, width=32)))
def test_divergence_is_not_negative_and_zero_for_equal_distributions(logits):
    log_p, log_q = (np.asarray(jax.nn.log_softmax(x)) for x in logits)
    # The mask token has no probability in either distribution.
    log_p, log_q = (jnp.append(x, -jnp.inf) for x in (log_p, log_q))
    assert state_kl.kl_divergence(log_p, log_p) == 0
    kl = float(state_kl.kl_divergence(log_p, log_q))
    assert kl >= 0
    p, q = (np.asarray(x[:-1], np.float64) for x in (log_p, log_q))
    np.testing.assert_allclose(kl, np.sum(np.exp(p) * (p - q)), rtol=1e-3, atol=1e-5)


def test_probabilities_below_float32_count_as_zero():
    log_p, log_q = jnp.asarray([0.0, -200.0]), jnp.asarray([-200.0, 0.0])
    assert state_kl.kl_divergence(log_p, log_q) == 200
    assert state_kl.kl_divergence(log_q, log_p) == 200
