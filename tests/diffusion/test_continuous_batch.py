"""The continuous batch gives every row as the static batch does, without idle slots."""

import functools

import jax
import numpy as np
import pytest
import reference

from diffpo_jax.diffusion import sampler as generate
from diffpo_jax.diffusion.settings import EndOfText, Rule, SamplerSettings

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
def test_free_slot_takes_the_row_with_most_left_at_once(static, slots):
    left = (static.commit_call > 1).sum(axis=1)
    ends = [0] * slots
    for row in np.argsort(-left, kind="stable"):
        first = ends.index(min(ends))
        ends[first] += static.nfe[row] - 1
    settings = SamplerSettings(LENGTH, LENGTH, 1.0)
    policy = POLICY._replace(hidden=counted)
    make = generate.make_generate_with_hidden
    run = jax.jit(make(policy, settings, threshold="drawn", slots=slots))
    calls.clear()
    jax.block_until_ready(run(PARAMS, PROMPTS, np.float32(0), KEYS))
    jax.effects_barrier()
    first_calls = -(-QUEUE // slots)
    assert len(calls) == first_calls + max(ends)


@pytest.mark.parametrize("slots", [1, 3, QUEUE])
def test_free_slot_takes_the_next_prompt_at_once(static, slots):
    ends = [0] * slots
    for needed in static.nfe.tolist():
        first = ends.index(min(ends))
        ends[first] += needed
    assert sampler(slots)(PROMPTS, KEYS)[1] == max(ends)


def test_rows_done_in_the_first_call_take_no_slot():
    settings = SamplerSettings(LENGTH, LENGTH, 1.0)
    policy = POLICY._replace(hidden=counted)
    make = generate.make_generate_with_hidden
    run = jax.jit(make(policy, settings, threshold="fixed", slots=3))
    calls.clear()
    rollout, _ = jax.device_get(run(PARAMS, PROMPTS, np.float32(np.inf), KEYS))
    jax.effects_barrier()
    assert (rollout.nfe == 1).all() and len(calls) == 3


# Rows that share a prompt.

GROUP = 3
REPEATED = jax.tree.map(lambda x: np.repeat(x, GROUP, axis=0), PROMPTS)
MANY_KEYS = jax.random.split(jax.random.key(4), QUEUE * GROUP)


def grouped(size, slots, threshold="drawn", dial=0.0, **how):
    settings = SamplerSettings(LENGTH, **({"block_length": LENGTH, "temperature": 1.0} | how))
    settings = settings._replace(rows_per_prompt=size)
    policy = POLICY._replace(hidden=counted)
    make = generate.make_generate_with_hidden
    run = jax.jit(make(policy, settings, threshold=threshold, slots=slots))
    calls.clear()
    rollout, hidden = jax.device_get(run(PARAMS, REPEATED, np.float32(dial), MANY_KEYS))
    jax.effects_barrier()
    return rollout, hidden, len(calls)


@pytest.mark.parametrize("slots", [None, 2, 4])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"block_length": 2},
        {"temperature": 0.6, "chunk": 3},
        {"max_calls": 1},
        {"scope": "call"},
        {"rule": Rule("top_k"), "ranking": "drawn", "threshold": "fixed", "dial": 3.0},
        {"end": EndOfText((3,), 3, stop=True, suppress="while_open")},
    ],
)
def test_rows_that_share_the_first_call_come_out_the_same(how, slots):
    alone, _, _ = grouped(1, slots, **how)
    together, hidden, _ = grouped(GROUP, slots, **how)
    assert_same_rows(together, alone)
    assert hidden.shape == (QUEUE, LENGTH, VOCAB)


def test_the_first_call_is_one_pass_for_the_rows_of_a_prompt():
    rollout, hidden, passes = grouped(GROUP, None)
    # A static batch makes one pass for each call of its longest row, whatever their rows.
    assert passes == rollout.nfe.max()
    for i in range(QUEUE):
        prompt, mask = np.asarray(PROMPTS.tokens[i]), np.asarray(PROMPTS.mask[i])
        _, states = reference.table_hidden(PARAMS, prompt, mask, [MASK_ID] * LENGTH)
        np.testing.assert_allclose(hidden[i], states, atol=1e-6)
    # 7 prompts in pieces of 4 and 21 rows in slots of 4.
    rollout, _, passes = grouped(GROUP, 4)
    assert passes <= 2 + (rollout.nfe.sum() - rollout.nfe.size) // 4 + rollout.nfe.max()
