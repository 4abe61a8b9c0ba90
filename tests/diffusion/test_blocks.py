"""Attention by blocks: what positions see, the exact cache, and the scorer's noisy blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.arrays.types import Draws, Prompts, Rollout
from diffpo_jax.config import LikelihoodConfig
from diffpo_jax.diffusion import blocks, likelihood, sampler, sft_loss
from diffpo_jax.diffusion.denoise import denoise, denoise_with_kv
from diffpo_jax.diffusion.settings import CacheSettings, EndOfText, Rule, SamplerSettings

LENGTH, PROMPT, ROWS, VOCAB, MASK_ID, END, BLOCK = 6, 4, 6, 6, 5, 4, 2
SIZES = {"layers": 2, "heads": 4, "kv_heads": 2, "width": 16, "ff": 16}
ORIGINS = ("completion", "prompt")
SHIFTS = pytest.mark.parametrize("shift", [0, 1])
KEYS = jax.random.split(jax.random.key(3), ROWS)
# Prompts of 1 to 4 tokens, so that rows have different offsets.
REAL = np.arange(PROMPT) >= np.array([[0], [1], [2], [3], [0], [1]])
PROMPTS = Prompts(
    jnp.asarray(np.where(REAL, np.random.default_rng(1).integers(0, 4, REAL.shape), 0), jnp.int32),
    jnp.asarray(REAL),
)


@functools.cache
def model(origin, block=BLOCK, shift=0, seed=7):
    return reference.tiny_policy(
        seed=seed,
        vocab=VOCAB,
        mask_id=MASK_ID,
        logit_shift=shift,
        attention_block=block,
        attention_origin=origin,
        **SIZES,
    )


def settings(cache="none", **changes):
    kind, rows = cache if isinstance(cache, tuple) else (cache, None)
    own = SamplerSettings(
        LENGTH,
        BLOCK,
        1.0,
        rule=Rule("entropy_bounded"),
        end=EndOfText((END,), END, True, "none"),
        cache=CacheSettings(kind, None, rows),
    )
    return own._replace(**changes)


@functools.cache
def rollouts(
    origin,
    cache="none",
    slots=None,
    temperature=1.0,
    block=BLOCK,
    gamma=0.9,
    shift=0,
    written=None,
):
    policy, params = model(origin, block, shift)
    own = settings(cache, temperature=temperature, block_length=written or block)
    run = jax.jit(sampler.make_generate(policy, own, threshold="fixed", slots=slots))
    return jax.device_get(run(params, PROMPTS, np.float32(gamma), KEYS))


@pytest.mark.parametrize("origin", ORIGINS)
def test_blocks_that_are_written_a_part_at_a_time(origin):
    """Blocks of 4, of which 2 positions are written at a time, as Fast-dLLM v2 writes 8 of 32."""
    own = {"block": 4, "shift": 1, "written": 2}
    plain, cached = rollouts(origin, **own), rollouts(origin, ("block", None), **own)
    for name in ("tokens", "commit_call", "sampled", "nfe"):
        np.testing.assert_array_equal(getattr(cached, name), getattr(plain, name), name)
    np.testing.assert_allclose(cached.logprob, plain.logprob, atol=1e-5)
    for row in range(ROWS):
        calls = plain.commit_call[row]
        part = (np.arange(LENGTH) + offsets(origin, 4)[row]) // 2
        for left, right in zip(range(LENGTH), range(1, LENGTH)):
            if plain.sampled[row, right] and part[left] < part[right]:
                assert calls[left] < calls[right]
    # The exact likelihood of these calls.
    policy, params = model(origin, 4, 1)
    config = LikelihoodConfig(anchors="all", prompt_masking=0.0)
    draws = likelihood.draw(jax.random.key(5), on_device(plain), PROMPTS, config, policy=policy)
    got = likelihood.anchored_log_prob(
        policy, params, PROMPTS, on_device(plain), draws, config, settings(block_length=2)
    )
    np.testing.assert_allclose(got, plain.logprob, atol=1e-5)


def offsets(origin, block=BLOCK):
    return REAL.sum(1) % block if origin == "prompt" else np.zeros(ROWS, int)


def block_of(origin, row, k, block=BLOCK):
    """The block of position k of a row's completion, from 0."""
    return (k + offsets(origin, block)[row]) // block


@pytest.mark.parametrize("origin", ORIGINS)
def test_positions_see_their_block_and_those_before_it(origin):
    """A token changes the hidden states of its own block and of later ones, and no others."""
    policy, params = model(origin)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 4, (ROWS, PROMPT + LENGTH)), jnp.int32)
    mask = jnp.concatenate([PROMPTS.mask, jnp.ones((ROWS, LENGTH), bool)], axis=1)
    before = np.asarray(policy.hidden(params, tokens, mask))
    for column in range(PROMPT + LENGTH):
        other = tokens.at[:, column].set((tokens[:, column] + 1) % 4)
        changed = np.abs(np.asarray(policy.hidden(params, other, mask)) - before).max(-1) > 1e-6
        for row in range(ROWS):
            first = PROMPT - REAL[row].sum()  # column of the row's first token
            start = first if origin == "prompt" else 0
            blocks_ = (np.arange(PROMPT + LENGTH) - start) // BLOCK
            real = np.arange(PROMPT + LENGTH) >= first
            sees = (blocks_ >= blocks_[column]) & real[column]
            # Padding sees what it likes: nothing reads it.
            np.testing.assert_array_equal(changed[row][real], sees[real])


@pytest.mark.parametrize("origin", ORIGINS)
def test_the_check_of_weights_reads_by_blocks_too(origin):
    policy, params = model(origin)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 4, PROMPTS.tokens.shape), jnp.int32)
    own = policy.hidden_under(params, tokens, PROMPTS.mask, jnp.bool_(False), jnp.float32(10_000))
    whole = policy.hidden(params, tokens, PROMPTS.mask)
    np.testing.assert_allclose(own[REAL], whole[REAL], atol=1e-5)


@pytest.mark.parametrize("origin", ORIGINS)
def test_blocks_are_written_one_after_another(origin):
    rollout = rollouts(origin)
    for row in range(ROWS):
        calls = rollout.commit_call[row][rollout.sampled[row]]
        of = np.array([block_of(origin, row, k) for k in range(LENGTH)])[rollout.sampled[row]]
        for b in range(of.max()):
            assert calls[of == b].max() < calls[of == b + 1].min()
    assert rollout.sampled.sum(1).min() < LENGTH  # some end early
    assert (rollout.nfe > 3).any()


CACHED = [(None, None, 1.0), (None, None, 0.0), (2, None, 1.0), (1, 3, 1.0)]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("rows, slots, temperature", CACHED)
@SHIFTS
def test_the_cache_is_exact(origin, rows, slots, temperature, shift):
    """Same tokens at the same calls, with rows in different blocks, padding and early ends."""
    plain = rollouts(origin, temperature=temperature, shift=shift)
    cached = rollouts(origin, ("block", rows), slots, temperature, shift=shift)
    for name in ("tokens", "commit_call", "sampled", "nfe", "forced"):
        np.testing.assert_array_equal(getattr(cached, name), getattr(plain, name), name)
    for name in ("logprob", "entropy", "features"):
        np.testing.assert_allclose(
            getattr(cached, name), getattr(plain, name), atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("origin", ORIGINS)
@SHIFTS
def test_a_blocks_first_token_is_predicted_by_the_finished_block_if_logits_are_shifted(
    origin, shift
):
    """Which tokens of its own block a position's logits depend on, the others clean."""
    policy, params = model(origin, shift=shift)
    rng = np.random.default_rng(0)
    target = jnp.asarray(rng.integers(0, 4, (ROWS, LENGTH)), jnp.int32)
    clean = denoise_with_kv(policy, params, PROMPTS, target)

    def hidden(state):
        return np.asarray(blocks.denoise_beside(policy, params, PROMPTS, clean, state))

    noise = jnp.full_like(target, MASK_ID)
    changed = np.abs(hidden(target) - hidden(noise)).max(-1) > 1e-6
    for row in range(ROWS):
        for k in range(LENGTH):
            first = (k + offsets(origin)[row]) % BLOCK == 0
            assert changed[row, k] == (not (shift and first))
    # In the clean state each block is as it stands in the clean row.
    np.testing.assert_allclose(hidden(target), clean[0].hidden, atol=1e-5)


def state_before(policy, rollout, row, call, blocks_of_row, b):
    """The row's completion, blocks before b as written, b after `call` calls of its own."""
    before = max(
        (c for c, s, of in zip(rollout.commit_call[row], rollout.sampled[row], blocks_of_row)
         if s and of < b),
        default=0,
    )  # fmt: skip
    return np.array([
        token if of < b or (of == b and c - before <= call) else MASK_ID
        for token, c, of in zip(rollout.tokens[row], rollout.commit_call[row], blocks_of_row)
    ])  # fmt: skip


def on_device(rollout):
    return jax.tree.map(jnp.asarray, rollout)


def row_of(row):
    return jax.tree.map(lambda x: x[row : row + 1], PROMPTS)


def slow_log_prob(origin, rollout, anchors, shift):
    """Each token in a whole pass of its own, in the state of its anchor; anchors [B n K]."""
    policy, params = model(origin, shift=shift)
    result = np.zeros((ROWS, LENGTH))
    for row in range(ROWS):
        of = [block_of(origin, row, k) for k in range(LENGTH)]
        for k in range(LENGTH):
            if not rollout.sampled[row, k]:
                continue
            earlier = [
                rollout.commit_call[row, i]
                for i in range(LENGTH)
                if of[i] < of[k] and rollout.sampled[row, i]
            ]
            own_call = rollout.commit_call[row, k] - max(earlier, default=0)
            call = max(a for a in anchors[row, of[k]] if a <= own_call - 1)
            state = state_before(policy, rollout, row, call, of, of[k])
            out = denoise(policy, params, row_of(row), jnp.asarray(state[None], jnp.int32))
            logits = np.array(policy.logits(params, out.hidden)[0, k], np.float64)
            logits[MASK_ID] = -np.inf
            result[row, k] = logits[rollout.tokens[row, k]] - np.logaddexp.reduce(logits)
    return result


@pytest.mark.parametrize("anchors", [1, 2, "all"])
@pytest.mark.parametrize("origin", ORIGINS)
@SHIFTS
def test_noisy_blocks_beside_the_clean_row_equal_a_pass_for_each_state(origin, anchors, shift):
    policy, params = model(origin, shift=shift)
    rollout = rollouts(origin, shift=shift)
    config = LikelihoodConfig(anchors=anchors, prompt_masking=0.0)
    draws = likelihood.draw(jax.random.key(5), on_device(rollout), PROMPTS, config, policy=policy)
    score = jax.jit(
        lambda p: likelihood.anchored_log_prob(
            policy, p, PROMPTS, on_device(rollout), draws, config, settings()
        )
    )
    got = score(params)
    expected = slow_log_prob(origin, rollout, np.asarray(draws.anchors), shift)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    if anchors == "all":
        np.testing.assert_allclose(got, rollout.logprob, atol=1e-5)


@pytest.mark.parametrize("origin", ORIGINS)
@SHIFTS
def test_gradient_of_noisy_blocks(origin, shift):
    """The gradient through the clean row's keys and values too, against a pass for each state."""
    policy, params = model(origin, shift=shift)
    rollout = rollouts(origin, shift=shift)
    config = LikelihoodConfig(anchors=2, prompt_masking=0.0)
    draws = likelihood.draw(jax.random.key(5), on_device(rollout), PROMPTS, config, policy=policy)
    weights = np.random.default_rng(2).normal(size=rollout.tokens.shape)

    def fast(p):
        got = likelihood.anchored_log_prob(
            policy, p, PROMPTS, on_device(rollout), draws, config, settings()
        )
        return jnp.sum(got * weights)

    states, rows, places = [], [], []
    calls, anchors = map(
        np.asarray, likelihood.by_position(policy, PROMPTS, on_device(rollout), draws.anchors)
    )
    for row, k in zip(*np.nonzero(rollout.sampled)):
        of = [block_of(origin, row, i) for i in range(LENGTH)]
        call = max(a for a in anchors[row, k] if a <= calls[row, k] - 1)
        states.append(state_before(policy, rollout, row, call, of, of[k]))
        rows.append(row), places.append(k)
    rows, places = np.array(rows), np.array(places)

    def slow(p):
        prompts = jax.tree.map(lambda x: x[rows], PROMPTS)
        hidden = denoise(policy, p, prompts, jnp.asarray(np.array(states), jnp.int32)).hidden
        logits = policy.logits(p, hidden[np.arange(len(rows)), places])
        log_p = jax.nn.log_softmax(jnp.where(np.arange(VOCAB) == MASK_ID, -jnp.inf, logits))
        return jnp.sum(log_p[np.arange(len(rows)), rollout.tokens[rows, places]]
                       * weights[rows, places])  # fmt: skip

    got, expected = jax.jit(jax.grad(fast))(params), jax.jit(jax.grad(slow))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
        got["denoiser"],
        expected["denoiser"],
    )


def test_calls_in_blocks_by_hand():
    """Two blocks of three after one prompt token; the second row ends in its first block."""
    policy = model("prompt", 3)[0]
    none = Rollout(*[None] * len(Rollout._fields))
    rollout = none._replace(
        commit_call=jnp.array([[2, 1, 3, 5, 4, 6], [1, 2, 3, 3, 3, 3]]),
        sampled=jnp.array([[True] * 6, [True] * 2 + [False] * 4]),
    )
    got = blocks.calls_in_block(policy, rollout, jnp.array([1, 1]))
    first = [[0, 2, 1], [1, 3, 2], [1, 0, 0]]
    np.testing.assert_array_equal(got[0], first)
    np.testing.assert_array_equal(got[1, 0], [0, 1, 2])


@pytest.mark.parametrize("origin", ORIGINS)
def test_every_block_counts_from_its_own_first_call(origin):
    policy, _ = model(origin)
    rollout, config = rollouts(origin), LikelihoodConfig(anchors="all", prompt_masking=0.0)
    draws = likelihood.draw(jax.random.key(5), on_device(rollout), PROMPTS, config, policy=policy)
    calls, anchors = likelihood.by_position(policy, PROMPTS, on_device(rollout), draws.anchors)
    assert np.asarray(likelihood.is_exact(calls, anchors))[rollout.sampled].all()
    one = Draws(jnp.zeros((ROWS, blocks.count(policy, LENGTH), 1), jnp.int32), draws.prompt_mask)
    calls, anchors = likelihood.by_position(policy, PROMPTS, on_device(rollout), one.anchors)
    exact = np.asarray(likelihood.is_exact(calls, anchors))
    for row in range(ROWS):
        for k in np.nonzero(rollout.sampled[row])[0]:
            same = [
                i
                for i in range(LENGTH)
                if block_of(origin, row, i) < block_of(origin, row, k) and rollout.sampled[row, i]
            ]
            begins = max((rollout.commit_call[row, i] for i in same), default=0) + 1
            assert exact[row, k] == (rollout.commit_call[row, k] == begins)


@pytest.mark.parametrize("origin", ORIGINS)
@SHIFTS
def test_sft_of_blocks_given_what_is_before_them(origin, shift):
    """The loss of every block, masked by its own share, with the blocks before it whole."""
    policy, params = model(origin, shift=shift)
    target = jnp.asarray(np.random.default_rng(3).integers(0, 5, (ROWS, LENGTH)), jnp.int32)
    masked, p = sft_loss.corrupt(jax.random.key(1), target, 0.1, policy, PROMPTS)
    loss, _ = sft_loss.sft_loss(policy, params, PROMPTS, target, masked, p)
    masked, p, expected = np.asarray(masked), np.asarray(p), 0.0
    for row in range(ROWS):
        of = np.array([block_of(origin, row, k) for k in range(LENGTH)])
        for b in range(of.max() + 1):
            assert len(set(p[row][of == b])) == 1
            state = np.where((of > b) | (masked[row] & (of == b)), MASK_ID, target[row])
            out = denoise(policy, params, row_of(row), jnp.asarray(state[None], jnp.int32))
            logits = np.array(policy.logits(params, out.hidden)[0], np.float64)
            logits[:, MASK_ID] = -np.inf
            log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            for k in np.nonzero((of == b) & masked[row])[0]:
                expected -= log_p[k, target[row, k]] / p[row, k]
        assert len(set(p[row])) > 1
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("origin", ORIGINS)
@SHIFTS
def test_surrogates_of_blocks_sum_to_one(origin, shift):
    """Over every completion of four tokens in blocks of two, by the trajectory that leads to it."""
    length, vocab, mask_id = 4, 4, 1
    policy, params = reference.tiny_policy(
        seed=3,
        vocab=vocab,
        mask_id=mask_id,
        logit_shift=shift,
        attention_block=2,
        attention_origin=origin,
        **SIZES,
    )
    # Three tokens: counted from the prompt, its last one begins the completion's first block.
    prompt, mask = np.array([[0, 2, 3, 0]]), np.array([[False, True, True, True]])
    offset = 1 if origin == "prompt" else 0

    @jax.jit
    def logits_of_states(states):
        rows = states.shape[0]
        prompts = Prompts(jnp.tile(prompt, (rows, 1)), jnp.tile(mask, (rows, 1)))
        return policy.logits(params, denoise(policy, params, prompts, states).hidden)

    states = np.array(list(np.ndindex(*(vocab,) * length)), np.int32)
    table = np.asarray(logits_of_states(jnp.asarray(states)), np.float64)
    place = vocab ** np.arange(length)[::-1]
    texts = reference.completions(length, vocab, mask_id)
    # A bound in the middle of what the second block costs after each text of the first.
    written = texts.copy()
    written[:, 2 - offset :] = mask_id
    log_p = reference.log_probs(table[written @ place], mask_id)
    h = np.array([reference.entropy(rows) for rows in log_p])
    gamma = np.median(h[:, 2 - offset : 4 - offset].min(1))
    calls = np.array([trajectory(table, place, text, offset, mask_id, gamma) for text in texts])
    rows = len(texts)
    prompts = Prompts(jnp.tile(prompt, (rows, 1)), jnp.tile(mask, (rows, 1)))
    rollout = Rollout(*[None] * len(Rollout._fields))._replace(
        tokens=jnp.asarray(texts, jnp.int32),
        commit_call=jnp.asarray(calls, jnp.int32),
        sampled=jnp.ones(calls.shape, bool),
        logprob=jnp.zeros(calls.shape),
        nfe=jnp.asarray(calls.max(1), jnp.int32),
    )
    assert len({tuple(row) for row in calls}) > 1  # other tokens, other calls
    own = SamplerSettings(length, 2, 1.0)
    for anchors in (1, 2, "all"):
        config = LikelihoodConfig(anchors=anchors, schedule="even", prompt_masking=0.0)
        draws = likelihood.draw(jax.random.key(0), rollout, prompts, config, policy=policy)
        log_p = likelihood.anchored_log_prob(policy, params, prompts, rollout, draws, config, own)
        total = np.exp(np.asarray(log_p, np.float64).sum(1)).sum()
        np.testing.assert_allclose(total, 1, atol=1e-5)


def trajectory(table, place, text, offset, mask_id, gamma):
    """The call that commits each token of a completion, with logits [states L V]."""
    commit_call, call = np.zeros(len(text), int), 0
    block = (np.arange(len(text)) + offset) // 2
    while (commit_call == 0).any():
        call += 1
        state = np.where(commit_call > 0, text, mask_id)
        h = reference.entropy(reference.log_probs(table[state @ place], mask_id))
        open_ = (commit_call == 0) & (block == block[np.argmax(commit_call == 0)])
        commit_call[list(reference.committed(h, open_, gamma))] = call
    return commit_call
