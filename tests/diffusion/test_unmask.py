"""The sampler, against a slow replay and the enumerated distribution of completions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import stats

from diffpo_jax.arrays.types import Prompts
from diffpo_jax.diffusion import denoise, thresholds, unmask
from diffpo_jax.diffusion import sampler as generate
from diffpo_jax.diffusion.settings import SamplerSettings

LENGTH, VOCAB, MASK_ID, PROMPT = 4, 4, 1, 2
ROWS = 12
PARAMS = reference.table_params(0, PROMPT, LENGTH, VOCAB)
PROMPTS = reference.some_prompts(1, ROWS, PROMPT, VOCAB)
KEYS = jax.random.split(jax.random.key(2), ROWS)
GAMMAS = jnp.asarray([0.0, 0.4, 0.8, 1.3, 2.0, jnp.inf] * 2, jnp.float32)


def threshold_of(gammas):
    """A threshold that gives each row of the batch its own bound."""
    return lambda params, features, keys: (gammas, jnp.zeros_like(gammas))


@functools.cache
def sampler(block_length=LENGTH, temperature=1.0, max_calls=0, length=LENGTH):
    policy = reference.table_policy(length, VOCAB, MASK_ID)
    settings = SamplerSettings(length, block_length, temperature, max_calls)

    @jax.jit
    def run(params, prompts, gammas, keys):
        return unmask.unmask(policy, params, prompts, threshold_of(gammas), keys, settings)

    return lambda *args: jax.device_get(run(*args))


VARIANTS = {
    "plain": {},
    "blocks": {"block_length": 2},
    "cool": {"temperature": 0.7},
    "argmax": {"temperature": 0.0},
    "capped": {"max_calls": 2},
    "capped blocks": {"max_calls": 3, "block_length": 2, "temperature": 1.5},
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    settings = VARIANTS[request.param]
    run = sampler(**settings)
    return settings, run, run(PARAMS, PROMPTS, GAMMAS, KEYS)


def logits_of(row, prompts=PROMPTS, params=PARAMS):
    tokens, mask = np.asarray(prompts.tokens[row]), np.asarray(prompts.mask[row])
    return lambda state: reference.table_logits(params, tokens, mask, state)


def test_record_equals_that_of_a_slow_replay(variant):
    settings, _, rollout = variant
    settings = {**settings, "temperature": settings.get("temperature", 1.0) or 1.0}
    for row in range(ROWS):
        tokens, gamma = rollout.tokens[row], float(GAMMAS[row])
        expected = reference.replay(logits_of(row), tokens, gamma, MASK_ID, **settings)
        np.testing.assert_array_equal(rollout.commit_call[row], expected.commit_call)
        np.testing.assert_allclose(rollout.logprob[row], expected.logprob, atol=1e-5)
        np.testing.assert_allclose(rollout.entropy[row], expected.entropy, atol=1e-5)


def test_calls_are_contiguous_and_counted(variant):
    _, _, rollout = variant
    for row in range(ROWS):
        calls = set(rollout.commit_call[row].tolist())
        assert calls == set(range(1, rollout.nfe[row] + 1))
    assert rollout.sampled.all()
    assert (rollout.tokens != MASK_ID).all()
    np.testing.assert_array_equal(rollout.gamma, GAMMAS)


def test_row_does_not_depend_on_its_batch(variant):
    _, run, rollout = variant
    order = np.random.default_rng(3).permutation(ROWS)
    inputs = jax.tree.map(lambda x: x[order], (PROMPTS, GAMMAS, KEYS))
    other = run(PARAMS, *inputs)
    for name in ("tokens", "commit_call", "nfe", "logprob", "entropy"):
        np.testing.assert_array_equal(getattr(other, name), getattr(rollout, name)[order])


def test_shortest_and_longest_rollouts(variant):
    settings, _, rollout = variant
    blocks = LENGTH // settings.get("block_length", LENGTH)
    cap = settings.get("max_calls", 0) or LENGTH
    np.testing.assert_array_equal(rollout.nfe[rollout.gamma == 0], min(LENGTH, cap))
    np.testing.assert_array_equal(rollout.nfe[rollout.gamma == np.inf], min(blocks, cap))
    assert rollout.nfe.max() <= cap


def test_blocks_are_filled_from_left_to_right(variant):
    settings, _, rollout = variant
    size, cap = settings.get("block_length", LENGTH), settings.get("max_calls", 0)
    calls = rollout.commit_call.reshape(ROWS, -1, size)
    last, first = calls.max(-1)[:, :-1], calls.min(-1)[:, 1:]
    forced = (first == cap) & (last == cap)
    assert ((last < first) | forced).all()


def test_row_alone_equals_the_row_in_a_batch():
    run = sampler()
    together = run(PARAMS, PROMPTS, GAMMAS, KEYS)
    for row in (1, 5):
        inputs = jax.tree.map(lambda x, row=row: x[row : row + 1], (PROMPTS, GAMMAS, KEYS))
        alone = run(PARAMS, *inputs)
        jax.tree.map(
            lambda a, b, row=row: np.testing.assert_array_equal(a[0], b[row]), *(alone, together)
        )


def test_finished_rows_and_committed_tokens_never_change():
    policy = reference.table_policy(LENGTH, VOCAB, MASK_ID)
    settings = SamplerSettings(LENGTH, LENGTH, 1.0, 0)

    def start():
        return unmask.start(policy, PARAMS, PROMPTS, settings)

    @jax.jit
    def step(rows):
        return unmask.call(
            policy, PARAMS, PROMPTS, rows, None, threshold_of(GAMMAS), KEYS, settings
        )[0]

    rows, finished = jax.device_get(jax.jit(start)()), []
    for number in range(1, LENGTH + 2):
        before, rows = rows, jax.device_get(step(rows))
        committed = before.commit_call > 0
        done = committed.all(axis=1)
        finished.append(done.sum())
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(rows)):
            np.testing.assert_array_equal(old[done], new[done])
        for name in ("tokens", "commit_call", "logprob", "entropy"):
            old, new = getattr(before, name), getattr(rows, name)
            np.testing.assert_array_equal(old[committed], new[committed])
        assert (rows.tokens[rows.commit_call == 0] == MASK_ID).all()
        np.testing.assert_array_equal(rows.call[~done], number)
    assert finished[0] == 0
    assert 0 < finished[1] < ROWS  # some rows are done while others go on
    assert finished[-1] == ROWS


def test_threshold_reads_the_features_of_the_first_call():
    policy = reference.table_policy(LENGTH, VOCAB, MASK_ID)
    settings = SamplerSettings(LENGTH, LENGTH, 1.0, 0)
    run = jax.jit(generate.make_generate(policy, settings, threshold="drawn"))
    rollout = jax.device_get(run(PARAMS, PROMPTS, jnp.float32(7), KEYS))
    for row in range(ROWS):
        tokens, mask = np.asarray(PROMPTS.tokens[row]), np.asarray(PROMPTS.mask[row])
        hidden, _ = reference.table_hidden(PARAMS, tokens, mask, [MASK_ID] * LENGTH)
        np.testing.assert_allclose(rollout.features[row], hidden[mask].mean(axis=0), atol=1e-6)
        noise = jax.random.normal(jax.random.fold_in(KEYS[row], 0), (), jnp.float32)
        mu, sigma = (float(x[0]) for x in policy.threshold(PARAMS, rollout.features[row][None]))
        np.testing.assert_allclose(np.log(rollout.gamma[row]), mu + sigma * noise, atol=1e-5)
        density = stats.norm.logpdf(np.log(rollout.gamma[row]), mu, sigma)
        np.testing.assert_allclose(rollout.gamma_logprob[row], density, atol=1e-4)
        expected = reference.replay(
            logits_of(row), rollout.tokens[row], float(rollout.gamma[row]), MASK_ID
        )
        np.testing.assert_array_equal(rollout.commit_call[row], expected.commit_call)


def test_each_call_draws_with_its_own_key():
    rollout = sampler()(PARAMS, PROMPTS, GAMMAS, KEYS)
    row = int(rollout.nfe.argmax())
    for number in range(1, LENGTH + 1):
        calls, tokens = rollout.commit_call[row], rollout.tokens[row]
        log_p = reference.log_probs(
            logits_of(row)(np.where(calls < number, tokens, MASK_ID)), MASK_ID
        )
        u = jax.random.uniform(jax.random.fold_in(KEYS[row], number), (LENGTH, 3))
        drawn = [reference.draw(log_p[p], u[p, :2]) for p in range(LENGTH)]
        now = calls == number
        np.testing.assert_array_equal(tokens[now], np.array(drawn)[now])


def test_fixed_and_median_thresholds():
    policy = reference.table_policy(LENGTH, VOCAB, MASK_ID)
    features = jnp.asarray(np.random.default_rng(4).normal(size=(3, VOCAB)), jnp.float32)
    gamma, density = thresholds.fixed(jnp.float32(0.25))(PARAMS, features, KEYS[:3])
    np.testing.assert_array_equal(gamma, [0.25] * 3)
    np.testing.assert_array_equal(density, [0.0] * 3)
    gamma, density = thresholds.median(policy, 2.0)(PARAMS, features, KEYS[:3])
    mu = np.asarray(features) @ np.asarray(PARAMS["threshold"]["weight"])
    np.testing.assert_allclose(gamma, 2 * np.exp(mu), rtol=1e-5)
    np.testing.assert_array_equal(density, [0.0] * 3)


def test_shifted_families_are_read_one_position_earlier():
    completion = jnp.asarray([[0, 1, 1, 3]] * 3, jnp.int32)
    prompts = jax.tree.map(lambda x: x[:3], PROMPTS)
    shifted = reference.table_policy(LENGTH, VOCAB, MASK_ID, logit_shift=1)
    out = shifted.logits(PARAMS, denoise.denoise(shifted, PARAMS, prompts, completion).hidden)
    plain = reference.table_policy(LENGTH, VOCAB, MASK_ID)
    expected = plain.logits(PARAMS, denoise.denoise(plain, PARAMS, prompts, completion).hidden)
    np.testing.assert_allclose(out[:, 1:], expected[:, :-1], atol=1e-6)
    for row in range(3):
        prompt, mask = np.asarray(prompts.tokens[row]), np.asarray(prompts.mask[row])
        prompt_hidden, _ = reference.table_hidden(PARAMS, prompt, mask, completion[row].tolist())
        np.testing.assert_allclose(out[row, 0], 1.25 * prompt_hidden[-1], atol=1e-6)


# Three positions, three tokens and a mask give 27 completions, each reached by one trajectory.

MANY = 4000


@pytest.mark.parametrize(
    ("gamma", "block_length", "longest"), [(0.0, 3, {3}), (0.8, 3, {2, 3}), (0.8, 1, {3})]
)
def test_outcomes_follow_the_enumerated_distribution(gamma, block_length, longest):
    params = reference.table_params(133, PROMPT, 3, VOCAB, spread=0.4)
    mask = jnp.array([[False, True]] * MANY)
    prompts = Prompts(jnp.array([[2, 3]] * MANY, jnp.int32), mask)
    run = sampler(length=3, block_length=block_length)
    keys = jax.random.split(jax.random.key(6), MANY)
    rollout = run(params, prompts, jnp.full(MANY, gamma, jnp.float32), keys)

    outcomes, state_logits = reference.completions(3, VOCAB, MASK_ID), logits_of(0, prompts, params)
    records = [
        reference.replay(state_logits, tokens, gamma, MASK_ID, block_length=block_length)
        for tokens in outcomes
    ]
    p = np.exp([record.logprob.sum() for record in records])
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert {record.commit_call.max() for record in records} == longest
    counts = np.array([(rollout.tokens == tokens).all(axis=1).sum() for tokens in outcomes])
    assert counts.sum() == MANY
    assert stats.chisquare(counts, MANY * p).pvalue > 1e-3
    # The test would fail for a sampler that drew all tokens in the first call.
    at_once = [reference.replay(state_logits, tokens, np.inf, MASK_ID) for tokens in outcomes]
    q = np.exp([record.logprob.sum() for record in at_once])
    assert stats.chisquare(counts, MANY * q).pvalue < 1e-6

    # The sampler's recorded probabilities of its outcomes sum to 1.
    recorded = {
        tuple(tokens): np.exp(np.sum(logprob, dtype=np.float64))
        for tokens, logprob in zip(rollout.tokens.tolist(), rollout.logprob)
    }
    assert len(recorded) == 27
    assert sum(recorded.values()) == pytest.approx(1, abs=1e-5)


def test_helper_lists_every_completion():
    expected = set(itertools.product([0, 2, 3], repeat=3))
    assert set(map(tuple, reference.completions(3, VOCAB, MASK_ID).tolist())) == expected


def test_other_prompts_and_gammas_need_no_compilation():
    policy = reference.table_policy(LENGTH, VOCAB, MASK_ID)
    settings = SamplerSettings(LENGTH, LENGTH, 1.0)
    run = jax.jit(generate.make_generate(policy, settings, threshold="fixed"))
    for seed, gamma in enumerate((0.0, 0.5, np.inf)):
        prompts = reference.some_prompts(seed, ROWS, PROMPT, VOCAB)  # of other lengths, too
        run(PARAMS, prompts, jnp.float32(gamma), KEYS)
    assert run._cache_size() == 1


def test_row_is_forced_if_the_rule_would_have_taken_more_calls(variant):
    settings, _, rollout = variant
    free = sampler(**{**settings, "max_calls": 0})(PARAMS, PROMPTS, GAMMAS, KEYS)
    cap = settings.get("max_calls", 0)
    expected = free.nfe > cap if cap else np.zeros(ROWS, bool)
    np.testing.assert_array_equal(rollout.forced, expected)
