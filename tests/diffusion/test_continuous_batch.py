"""The continuous batch gives every row as the static batch does, without idle slots."""

import functools

import jax
import numpy as np
import pytest
import reference

from diffpo_jax.diffusion import sampler as generate
from diffpo_jax.diffusion.settings import SamplerSettings

LENGTH, VOCAB, MASK_ID, PROMPT = 4, 4, 1, 2
QUEUE = 7
PARAMS = reference.table_params(0, PROMPT, LENGTH, VOCAB)
PROMPTS = reference.some_prompts(1, QUEUE, PROMPT, VOCAB)
KEYS = jax.random.split(jax.random.key(2), QUEUE)
POLICY = reference.table_policy(LENGTH, VOCAB, MASK_ID)

calls = []


def counted(params, tokens, mask):
    """The policy's hidden states; counts how often they are computed."""
    jax.debug.callback(lambda: calls.append(1))
    return POLICY.hidden(params, tokens, mask)


@functools.cache
def sampler(slots):
    settings = SamplerSettings(LENGTH, LENGTH, 1.0, 0)
    policy = POLICY._replace(hidden=counted)
    program = generate.make_generate(policy, settings, threshold="drawn", slots=slots)
    run = jax.jit(program)

    def timed(prompts, keys):
        calls.clear()
        rollout = jax.device_get(run(PARAMS, prompts, np.float32(0), keys))
        jax.effects_barrier()
        return rollout, len(calls)

    return timed


@pytest.fixture(scope="module")
def static():
    return sampler(0)(PROMPTS, KEYS)[0]


def assert_same_rows(rollout, expected):
    for name in ("tokens", "commit_call", "sampled", "nfe", "gamma"):
        np.testing.assert_array_equal(getattr(rollout, name), getattr(expected, name))
    for name in ("logprob", "entropy", "gamma_logprob", "features"):
        np.testing.assert_allclose(getattr(rollout, name), getattr(expected, name), atol=1e-5)


def test_rows_of_the_test_differ(static):
    assert len(set(static.nfe.tolist())) >= 3
    assert len(set(static.gamma.tolist())) == QUEUE
    assert len(set(map(tuple, static.tokens.tolist()))) >= QUEUE - 1


@pytest.mark.parametrize("slots", [1, 3, QUEUE])
def test_stream_equals_the_static_batch_row_by_row(static, slots):
    assert_same_rows(sampler(slots)(PROMPTS, KEYS)[0], static)


def test_order_of_the_queue_changes_no_row(static):
    order = np.random.default_rng(3).permutation(QUEUE)
    prompts = jax.tree.map(lambda x: x[order], PROMPTS)
    rollout = sampler(3)(prompts, KEYS[order])[0]
    assert_same_rows(rollout, jax.tree.map(lambda x: x[order], static))


@pytest.mark.parametrize("slots", [1, 3, QUEUE])
def test_free_slot_takes_the_next_prompt_at_once(static, slots):
    ends = [0] * slots
    for needed in static.nfe.tolist():
        first = ends.index(min(ends))
        ends[first] += needed
    assert sampler(slots)(PROMPTS, KEYS)[1] == max(ends)
