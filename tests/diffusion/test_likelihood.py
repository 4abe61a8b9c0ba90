"""Anchors and surrogate likelihoods, token by token, as distributions, and in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffpo_jax.arrays.types import Draws, Prompts, Rollout
from diffpo_jax.config import LikelihoodConfig
from diffpo_jax.diffusion import anchors as anchor_lib
from diffpo_jax.diffusion import likelihood, sampler, unmask
from diffpo_jax.diffusion.settings import EndOfText, SamplerSettings

# Two tokens and a mask at four positions give 16 completions and 81 states.
LENGTH, VOCAB, MASK_ID, PROMPT = 4, 3, 1, 2
ROWS = 8
PARAMS = reference.table_params(11, PROMPT, LENGTH, VOCAB)
POLICY = reference.table_policy(LENGTH, VOCAB, MASK_ID)
PROMPTS = reference.some_prompts(1, ROWS, PROMPT, VOCAB)
NO_MASK = jnp.zeros((ROWS, PROMPT), bool)
EVERY_CALL = jnp.tile(jnp.arange(LENGTH, dtype=jnp.int32), (ROWS, 1))


def logits_of(row, prompts=PROMPTS):
    tokens, mask = np.asarray(prompts.tokens[row]), np.asarray(prompts.mask[row])
    return lambda state: reference.table_logits(PARAMS, tokens, mask, state)


@functools.cache
def rollouts(temperature=1.0):
    settings = SamplerSettings(LENGTH, LENGTH, temperature, 0)
    keys = jax.random.split(jax.random.key(2), ROWS)
    gammas = jnp.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0, jnp.inf])

    def threshold(params, features, keys):
        return gammas, jnp.zeros_like(gammas)

    run = jax.jit(lambda: unmask.unmask(POLICY, PARAMS, PROMPTS, threshold, keys, settings))
    return run()


@functools.cache
def program(temperature=1.0, remat=False):
    config, settings = LikelihoodConfig(remat=remat), SamplerSettings(LENGTH, LENGTH, temperature)
    return jax.jit(
        functools.partial(likelihood.anchored_log_prob, POLICY, config=config, settings=settings)
    )


def score(anchors, prompt_mask=NO_MASK, prompts=PROMPTS, temperature=1.0, remat=False):
    draws = Draws(jnp.asarray(anchors, jnp.int32), jnp.asarray(prompt_mask))
    rollout = rollouts(temperature)
    return np.asarray(program(temperature, remat)(PARAMS, prompts, rollout, draws))


def expected_score(rollout, anchors, prompts, temperature=1.0):
    """Scores each token in the state after the last anchor before its commit call."""
    tokens, calls = np.asarray(rollout.tokens), np.asarray(rollout.commit_call)
    out = np.zeros(tokens.shape)
    for row, k in np.ndindex(*tokens.shape):
        anchor = max(a for a in np.asarray(anchors[row]) if a <= calls[row, k] - 1)
        state = np.where(calls[row] <= anchor, tokens[row], MASK_ID)
        log_p = reference.log_probs(logits_of(row, prompts)(state), MASK_ID, temperature)
        out[row, k] = log_p[k, tokens[row, k]]
    return out


# Anchors and states.


def test_anchor_index_by_hand():
    calls = jnp.array([[1, 2, 3, 5, 6], [1, 1, 2, 1, 2]])
    anchors = jnp.array([[0, 2, 5], [0, 1, 1]])
    # A token of call t is scored at the last anchor up to t - 1.
    expected = [[0, 0, 1, 1, 2], [0, 0, 2, 0, 2]]
    np.testing.assert_array_equal(likelihood.anchor_index(calls, anchors), expected)
    at_zero = likelihood.anchor_index(calls, jnp.zeros((2, 1), jnp.int32))
    np.testing.assert_array_equal(at_zero, np.zeros((2, 5)))


def test_state_at_by_hand():
    tokens, calls = jnp.array([[4, 5, 6], [7, 8, 9]]), jnp.array([[2, 1, 3], [1, 2, 1]])
    got = [likelihood.state_at(tokens, calls, jnp.array(call), 0) for call in ([0, 0], [2, 1])]
    np.testing.assert_array_equal(got[0], np.zeros((2, 3)))
    np.testing.assert_array_equal(got[1], [[4, 5, 0], [7, 0, 9]])


@pytest.mark.parametrize("calls", [None, 2])
def test_exact_likelihood_and_its_sample_equal_the_samplers(calls):
    rollout = rollouts()
    config = LikelihoodConfig(anchors="all", prompt_masking=0.0, calls=calls)
    draws = likelihood.draw(jax.random.key(5), rollout, PROMPTS, config)
    got = np.asarray(program()(PARAMS, PROMPTS, rollout, draws))
    scored = np.ones(got.shape, bool) if not calls else np.asarray(draws.scale) > 0
    assert 0 < scored.mean() <= 1
    np.testing.assert_allclose(got[scored], rollout.logprob[scored], atol=1e-5)
    assert np.asarray(likelihood.is_exact(rollout.commit_call, draws.anchors))[scored].all()


def test_anchors_without_tokens_cost_no_pass():
    passes = []

    def hidden(params, tokens, mask):
        jax.debug.callback(lambda: passes.append(1))
        return POLICY.hidden(params, tokens, mask)

    policy, settings = POLICY._replace(hidden=hidden), SamplerSettings(LENGTH, LENGTH, 1.0)
    draws = Draws(jnp.tile(jnp.arange(8, dtype=jnp.int32), (ROWS, 1)), NO_MASK)
    jax.jit(
        lambda: likelihood.anchored_log_prob(
            policy, PARAMS, PROMPTS, rollouts(), draws, LikelihoodConfig(), settings
        )
    )()
    jax.effects_barrier()
    assert len(passes) == int(rollouts().nfe.max()) < 8


GROUP = 4  # rows of a prompt, where they share its all-mask state
GROUPED = jax.tree.map(lambda x: jnp.repeat(x[::GROUP], GROUP, axis=0), PROMPTS)


def grouped_score(size, draws, config, first_hidden=None, **how):
    """Values, and the gradient of a weighted sum of them, for rows that share prompts."""
    settings = SamplerSettings(LENGTH, LENGTH, 0.7, rows_per_prompt=size, **how)
    weights = jnp.asarray(np.random.default_rng(8).normal(size=(ROWS, LENGTH)), jnp.float32)
    end = {"sampled": jnp.asarray(np.random.default_rng(9).random((ROWS, LENGTH)) < 0.8)}
    rollout = rollouts()._replace(**end)
    passes = []

    def hidden(params, tokens, mask):
        jax.debug.callback(lambda: passes.append(tokens.shape[0]))
        return POLICY.hidden(params, tokens, mask)

    def total(params):
        value = likelihood.anchored_log_prob(
            POLICY._replace(hidden=hidden),
            params,
            GROUPED,
            rollout,
            draws,
            config,
            settings,
            first_hidden,
        )
        return jnp.sum(value * weights), value

    out = jax.device_get(jax.jit(jax.grad(total, has_aux=True))(PARAMS))
    jax.effects_barrier()
    return out, passes


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"chunk": 3},
        {"end": EndOfText((2,), suppress="while_open")},
        {"end": EndOfText((2,), suppress="never"), "chunk": 1},
    ],
)
def test_rows_that_share_the_first_pass_score_the_same(count, remat, how):
    config = LikelihoodConfig(anchors=count, remat=remat, prompt_masking=0.0)
    draws = likelihood.draw(jax.random.key(5), rollouts(), GROUPED, config)
    (expected_gradient, expected), alone = grouped_score(1, draws, config, **how)
    (gradient, got), together = grouped_score(GROUP, draws, config, **how)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradient, expected_gradient
    )
    assert set(alone) == {ROWS} and ROWS // GROUP in together
    assert together.count(ROWS) < len(alone)


def test_prompts_that_are_masked_row_by_row_share_nothing():
    masked = {"anchors": 2, "prompt_masking": 0.5}
    by_rollout = LikelihoodConfig(**masked)
    draws = likelihood.draw(jax.random.key(6), rollouts(), GROUPED, by_rollout, GROUP)
    assert (np.asarray(draws.prompt_mask[:GROUP]) != np.asarray(draws.prompt_mask[0])).any()
    (_, expected), _ = grouped_score(1, draws, by_rollout)
    (_, got), passes = grouped_score(GROUP, draws, by_rollout)
    np.testing.assert_array_equal(got, expected)
    assert set(passes) == {ROWS}

    by_prompt = LikelihoodConfig(**masked, masked_per="prompt")
    draws = likelihood.draw(jax.random.key(6), rollouts(), GROUPED, by_prompt, GROUP)
    mask = np.asarray(draws.prompt_mask).reshape(-1, GROUP, PROMPT)
    assert (mask == mask[:, :1]).all() and mask.any()
    assert not (mask & ~np.asarray(GROUPED.mask).reshape(mask.shape)).any()
    (_, expected), _ = grouped_score(1, draws, by_prompt)
    (_, got), passes = grouped_score(GROUP, draws, by_prompt)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert ROWS // GROUP in passes


@pytest.mark.parametrize("count", [1, 2, "all"])
def test_the_samplers_first_call_gives_the_first_anchor_without_a_pass(count):
    config = LikelihoodConfig(anchors=count, prompt_masking=0.0)
    settings = SamplerSettings(LENGTH, LENGTH, 1.0, rows_per_prompt=GROUP)
    make = sampler.make_generate_with_hidden
    run = jax.jit(make(POLICY, settings, threshold="drawn"))
    keys = jax.random.split(jax.random.key(2), ROWS)
    rollout, hidden = run(PARAMS, GROUPED, jnp.float32(0), keys)
    draws = likelihood.draw(jax.random.key(5), rollout, GROUPED, config)
    passes = []

    def counted(params, tokens, mask):
        jax.debug.callback(lambda: passes.append(1))
        return POLICY.hidden(params, tokens, mask)

    def score(first_hidden):
        passes.clear()
        policy = POLICY._replace(hidden=counted)
        value = jax.jit(
            lambda: likelihood.anchored_log_prob(
                policy, PARAMS, GROUPED, rollout, draws, config, settings, first_hidden
            )
        )()
        jax.effects_barrier()
        return np.asarray(value), len(passes)

    expected, with_pass = score(None)
    got, without = score(hidden)
    assert without == with_pass - 1
    np.testing.assert_allclose(got, expected, atol=1e-6)
    # Tokens of the first call are scored as they were drawn.
    first = np.asarray(rollout.commit_call) == 1
    np.testing.assert_allclose(got[first], rollout.logprob[first], atol=1e-5)


def test_is_exact_by_hand():
    calls, anchors = jnp.array([[1, 1, 2, 3]]), jnp.array([[0, 2]])
    got = likelihood.is_exact(calls, anchors)
    np.testing.assert_array_equal(got, [[True, True, False, True]])


def contiguous(raw):
    """Maps any numbers to calls 1..N, each of which is used."""
    return np.stack([np.unique(row, return_inverse=True)[1] + 1 for row in raw]).astype(np.int32)


calls_of_rows = hnp.arrays(np.int32, (3, 5), elements=st.integers(1, 5)).map(contiguous)
seeds = st.integers(0, 2**31 - 1)


def draw_anchors(key, calls, count, schedule="uniform"):
    return anchor_lib.draw_anchors(key, calls, jnp.max(calls, axis=1), count, schedule)


draw_three = jax.jit(draw_anchors, static_argnums=(2, 3))


@given(seeds, calls_of_rows)
@settings(max_examples=60)
def test_anchors_are_the_first_calls_with_enough_committed(seed, calls):
    anchors = np.asarray(draw_three(jax.random.key(seed), jnp.asarray(calls), 3))
    assert anchors.dtype == np.int32
    np.testing.assert_array_equal(anchors[:, 0], 0)
    # The program's own numbers, from the same key, in float32.
    u = np.sort(np.asarray(jax.random.uniform(jax.random.key(seed), (3, 2))), axis=1)
    for row in range(3):
        for j in range(2):
            needed = np.ceil(u[row, j] * np.float32(5))
            first = min(
                t for t in range(1, calls[row].max() + 1) if (calls[row] <= t).sum() >= needed
            )
            assert anchors[row, j + 1] == first


@pytest.mark.parametrize("schedule", ["uniform", "stratified", "even", "batch"])
@given(
    seed=seeds,
    calls=calls_of_rows,
    later=hnp.arrays(np.int32, (3, 5), elements=st.integers(1, 5)),
)
@settings(max_examples=60)
def test_anchors_are_stopping_times(schedule, seed, calls, later):
    key = jax.random.key(seed)
    anchors = np.asarray(draw_three(key, jnp.asarray(calls), 3, schedule))
    for j in (1, 2):
        reached = anchors[:, j : j + 1]
        # Everything after the anchor changes, and the number of calls with it.
        other = np.where(calls <= reached, calls, reached + later).astype(np.int32)
        again = np.asarray(draw_three(key, jnp.asarray(other), 3, schedule))
        np.testing.assert_array_equal(again[:, : j + 1], anchors[:, : j + 1])


def test_fractions_of_the_calls_are_no_stopping_times():
    key, few = jax.random.key(0), jnp.asarray([[1, 1, 2, 2]] * 50, jnp.int32)
    many = jnp.asarray([[1, 1, 3, 9]] * 50, jnp.int32)
    a, b = (np.asarray(draw_anchors(key, calls, 2, "calls"))[:, 1] for calls in (few, many))
    u = np.asarray(jax.random.uniform(key, (50, 1)))[:, 0]
    np.testing.assert_array_equal(a, np.floor(2 * u))
    np.testing.assert_array_equal(b, np.floor(9 * u))


def test_schedules_by_hand():
    calls = jnp.asarray([[1, 1, 2, 3, 3, 3, 4, 5]], jnp.int32)
    # Shares 1/4, 2/4, 3/4 of 8 are two, four, six positions, committed by calls 1, 3, 3.
    np.testing.assert_array_equal(draw_anchors(jax.random.key(0), calls, 4, "even"), [[0, 1, 3, 3]])
    drawn = np.asarray(draw_anchors(jax.random.key(0), jnp.tile(calls, (500, 1)), 3, "stratified"))
    assert set(drawn[:, 1]) == {1, 2, 3}  # from the first half of the tokens
    assert set(drawn[:, 2]) == {3, 4, 5}  # from the second half
    shared = np.asarray(draw_anchors(jax.random.key(0), jnp.tile(calls, (9, 1)), 4, "batch"))
    assert (shared == shared[0]).all()
    assert (np.diff(shared[0]) >= 0).all()
    with pytest.raises(ValueError, match="weekly"):
        draw_anchors(jax.random.key(0), calls, 2, "weekly")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_drawn_calls_estimate_the_sum_over_all_calls(count):
    calls = jnp.asarray([[1, 1, 2, 3, 3, 4, 5, 5], [1, 1, 1, 1, 2, 2, 2, 2]], jnp.int32)
    nfe, value = jnp.max(calls, axis=1), np.random.default_rng(0).normal(size=(2, 8))
    draw = jax.jit(jax.vmap(lambda key: anchor_lib.draw_calls(key, calls, nfe, count)))
    before, scale = map(np.asarray, draw(jax.random.split(jax.random.key(1), 4000)))
    assert ((before >= 0) & (before < np.asarray(nfe)[:, None])).all()
    # The tokens of the calls after these states are scored, with N/R for each time drawn.
    for t in range(1, 6):
        times = (before == t - 1).sum(axis=-1)
        weight = times[:, :, None] * np.asarray(nfe)[:, None] / count
        np.testing.assert_allclose(np.where(calls == t, scale, 0), np.where(calls == t, weight, 0))
    estimate = (scale * value).sum(axis=-1)
    error = estimate.std(axis=0) / np.sqrt(4000) + 1e-9
    assert (np.abs(estimate.mean(axis=0) - value.sum(axis=-1)) < 5 * error).all()


def test_every_call_can_be_an_anchor_and_rows_are_independent():
    calls = jnp.tile(jnp.arange(1, 6, dtype=jnp.int32), (400, 1))
    anchors = np.asarray(draw_anchors(jax.random.key(0), calls, 2))[:, 1]
    counts = np.bincount(anchors, minlength=6)
    assert counts[0] == 0
    assert (np.abs(counts[1:] - 80) < 5 * np.sqrt(80)).all()


@pytest.mark.parametrize(("shrink", "expected"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (9, [0])])
def test_neighbouring_calls_share_the_state_of_the_first(shrink, expected):
    np.testing.assert_array_equal(anchor_lib.every_call(2, 5, shrink), [expected] * 2)
    ones = jnp.ones((1, 5), jnp.int32)
    rollout = Rollout(*[None] * len(Rollout._fields))._replace(commit_call=ones, nfe=ones[:, 0])
    prompts = Prompts(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    config = LikelihoodConfig(anchors="all", shrink=shrink, prompt_masking=0.0)
    drawn = likelihood.draw(jax.random.key(0), rollout, prompts, config)
    np.testing.assert_array_equal(drawn.anchors, [expected])


def test_one_anchor_is_the_start():
    got = draw_anchors(jax.random.key(0), jnp.array([[1, 2], [1, 1]]), 1)
    np.testing.assert_array_equal(got, [[0], [0]])


def test_draw_hides_the_given_share_of_real_prompt_tokens():
    prompts = Prompts(jnp.zeros((300, 4), jnp.int32), jnp.arange(1200).reshape(300, 4) % 3 > 0)
    key, ones = jax.random.key(3), jnp.ones((300, 2), jnp.int32)
    rollout = Rollout(*[None] * len(Rollout._fields))._replace(commit_call=ones, nfe=ones[:, 0])
    draws = likelihood.draw(key, rollout, prompts, LikelihoodConfig(anchors=2, prompt_masking=0.15))
    assert draws.anchors.shape == (300, 2)
    hidden, real = np.asarray(draws.prompt_mask), np.asarray(prompts.mask)
    assert not (hidden & ~real).any()
    assert abs(hidden[real].mean() - 0.15) < 0.05
    none = likelihood.draw(key, rollout, prompts, LikelihoodConfig(anchors=1, prompt_masking=0.0))
    assert not none.prompt_mask.any()


# Log-probabilities.


def test_rollouts_of_the_test_differ_in_their_calls():
    assert len(set(np.asarray(rollouts().nfe).tolist())) >= 3


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_all_calls_as_anchors_give_the_recorded_log_probs(temperature):
    got, recorded = score(EVERY_CALL, temperature=temperature), rollouts(temperature).logprob
    np.testing.assert_allclose(got, recorded, atol=1e-5)
    np.testing.assert_allclose(got.sum(1), np.sum(recorded, axis=1), atol=1e-5)


def test_one_anchor_is_one_pass_over_the_masked_completion():
    got = score(np.zeros((ROWS, 1)))
    tokens = np.asarray(rollouts().tokens)
    for row in range(ROWS):
        log_p = reference.log_probs(logits_of(row)([MASK_ID] * LENGTH), MASK_ID)
        np.testing.assert_allclose(got[row], log_p[np.arange(LENGTH), tokens[row]], atol=1e-5)
    # It differs from the sampler's for tokens drawn in later calls.
    later = np.asarray(rollouts().commit_call) > 1
    assert np.abs(got - rollouts().logprob)[later].max() > 0.1
    np.testing.assert_allclose(got[~later], rollouts().logprob[~later], atol=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_few_anchors_token_by_token(count):
    anchors = draw_anchors(jax.random.key(4), rollouts().commit_call, count)
    expected = expected_score(rollouts(), anchors, PROMPTS)
    np.testing.assert_allclose(score(anchors), expected, atol=1e-5)


def test_equal_anchors_act_as_one():
    once, twice = np.array([[0, 2]] * ROWS), np.array([[0, 0, 2, 2]] * ROWS)
    np.testing.assert_allclose(score(once), score(twice), atol=1e-6)


def test_prompt_mask_hides_prompt_tokens():
    hidden = np.asarray(PROMPTS.mask) & (np.arange(ROWS)[:, None] % 2 == 0)
    anchors = np.array([[0, 2]] * ROWS)
    by_hand = PROMPTS._replace(tokens=jnp.where(hidden, MASK_ID, PROMPTS.tokens))
    got = score(anchors, prompt_mask=hidden)
    np.testing.assert_allclose(got, expected_score(rollouts(), anchors, by_hand), atol=1e-5)
    plain = score(anchors)
    np.testing.assert_allclose(got[1::2], plain[1::2], atol=1e-6)
    assert np.abs(got[::2] - plain[::2]).max() > 0.05


def test_remat_changes_neither_value_nor_gradient():
    draws = Draws(jnp.array([[0, 1, 2]] * ROWS, jnp.int32), NO_MASK)
    weights = jnp.asarray(np.random.default_rng(5).normal(size=(ROWS, LENGTH)), jnp.float32)

    def value_and_grad(remat):
        def value(params):
            log_p = program(remat=remat)(params, PROMPTS, rollouts(), draws)
            return jnp.sum(weights * log_p)

        return jax.value_and_grad(value)(PARAMS)

    plain, again = value_and_grad(False), value_and_grad(True)
    np.testing.assert_allclose(plain[0], again[0], rtol=1e-6)
    assert np.abs(plain[1]["denoiser"]["table"]).max() > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain[1], again[1])


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_chunks_change_neither_value_nor_gradient(chunk):
    draws = Draws(jnp.array([[0, 1]] * ROWS, jnp.int32), NO_MASK)
    weights = jnp.asarray(np.random.default_rng(6).normal(size=(ROWS, LENGTH)), jnp.float32)
    rollout = rollouts()

    def value_and_grad(chunk):
        settings = SamplerSettings(LENGTH, LENGTH, 0.7, chunk=chunk)

        def value(params):
            log_p = likelihood.anchored_log_prob(
                POLICY, params, PROMPTS, rollout, draws, LikelihoodConfig(), settings
            )
            return jnp.sum(weights * log_p)

        return jax.jit(jax.value_and_grad(value))(PARAMS)

    plain, cut = value_and_grad(0), value_and_grad(chunk)
    np.testing.assert_allclose(cut[0], plain[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), cut[1], plain[1])


def test_gradient_memory_grows_neither_with_anchors_nor_with_the_vocabulary():
    """At LLaDA's vocabulary, by the memory analysis of the compiled program."""
    rows, length, prompt = 2, 64, 2
    policy, params = reference.tiny_policy(vocab=126_464, mask_id=126_336, width=8)

    def memory(anchors, chunk):
        whole = jax.ShapeDtypeStruct((rows, length), jnp.int32)
        values = jax.ShapeDtypeStruct((rows, length), jnp.float32)
        prompts = Prompts(*(jax.ShapeDtypeStruct((rows, prompt), t) for t in (jnp.int32, bool)))
        rollout = Rollout(*[None] * len(Rollout._fields))._replace(
            tokens=whole,
            commit_call=whole,
            sampled=jax.ShapeDtypeStruct((rows, length), bool),
            logprob=values,
        )
        draws = Draws(jax.ShapeDtypeStruct((rows, anchors), jnp.int32), prompts.mask)

        config = LikelihoodConfig(remat=True)
        settings = SamplerSettings(length, length, 1.0, chunk=chunk)

        def value(params, *args):
            return jnp.sum(likelihood.anchored_log_prob(policy, params, *args, config, settings))

        compiled = jax.jit(jax.grad(value)).lower(params, prompts, rollout, draws).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    one_array = 4 * rows * length * 126_464
    assert memory(2, chunk=0) > one_array
    few, many = memory(4, chunk=2), memory(16, chunk=2)
    assert few < one_array / 2  # mostly the gradients of the parameters
    assert many < 1.01 * few


# The surrogate as a distribution, over all trajectories of one prompt, one row each.

GAMMA = 0.2  # trajectories take 3 or 4 calls, depending on later tokens


@functools.cache
def trajectories(gamma):
    """Every completion, with the calls at which the true sampler commits its tokens."""
    tokens = reference.completions(LENGTH, VOCAB, MASK_ID)
    records = [reference.replay(logits_of(0), t, gamma, MASK_ID) for t in tokens]
    prompts = Prompts(*(jnp.repeat(x[:1], len(tokens), axis=0) for x in PROMPTS))
    rollout = Rollout(*[None] * len(Rollout._fields))._replace(
        tokens=jnp.asarray(tokens, jnp.int32),
        commit_call=jnp.asarray([r.commit_call for r in records], jnp.int32),
        logprob=jnp.asarray([r.logprob for r in records], jnp.float32),
        sampled=jnp.ones((len(records), LENGTH), bool),
    )
    return prompts, rollout


def total_probability(gamma, anchors):
    prompts, rollout = trajectories(gamma)
    draws = Draws(anchors, jnp.zeros(prompts.mask.shape, bool))
    log_p = program()(PARAMS, prompts, rollout, draws)
    return np.exp(np.sum(np.asarray(log_p, np.float64), axis=1)).sum()


@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_exact_likelihood_sums_to_one(gamma):
    anchors = jnp.tile(jnp.arange(LENGTH, dtype=jnp.int32), (16, 1))
    assert total_probability(gamma, anchors) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_surrogate_sums_to_one_at_stopping_times(seed, count):
    calls = trajectories(GAMMA)[1].commit_call
    assert len(set(np.asarray(calls).max(1).tolist())) >= 2

    def anchors_of(row):  # the same draw for every trajectory
        return draw_anchors(jax.random.key(seed), row[None], count)[0]

    assert total_probability(GAMMA, jax.vmap(anchors_of)(calls)) == pytest.approx(1, abs=1e-5)


def test_surrogate_with_anchors_from_the_number_of_calls_does_not_sum_to_one():
    calls = trajectories(GAMMA)[1].commit_call
    half = calls.max(axis=1, keepdims=True) // 2
    total = total_probability(GAMMA, jnp.concatenate([jnp.zeros_like(half), half], axis=1))
    assert abs(total - 1) > 0.1
