"""Cached calls: what they compute, when they are exact, and that rows are independent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.config import ModelConfig
from diffpo_jax.diffusion import sampler as generate
from diffpo_jax.diffusion.settings import CacheSettings, SamplerSettings

LENGTH, PROMPT, ROWS, VOCAB, MASK_ID, BLOCK = 6, 4, 5, 6, 5, 2
SIZES = {"layers": 2, "heads": 4, "kv_heads": 2, "width": 16, "ff": 16}
POLICY, PARAMS = reference.tiny_policy(seed=7, vocab=VOCAB, mask_id=MASK_ID, **SIZES)
PROMPTS = reference.some_prompts(1, ROWS, PROMPT, MASK_ID)
KEYS = jax.random.split(jax.random.key(3), ROWS)


@functools.cache
def sampler(kind="none", every=0, rows=0, slots=0, shift=0, max_calls=0):
    settings = SamplerSettings(
        LENGTH, BLOCK, 0.8, max_calls, cache=CacheSettings(kind, every, rows)
    )
    policy = POLICY._replace(logit_shift=shift)
    run = jax.jit(generate.make_generate(policy, settings, threshold="drawn", slots=slots))
    return lambda prompts=PROMPTS, keys=KEYS: jax.device_get(
        run(PARAMS, prompts, np.float32(0), keys)
    )


def assert_same(rollout, expected):
    for name in ("tokens", "commit_call", "sampled", "nfe", "forced"):
        np.testing.assert_array_equal(getattr(rollout, name), getattr(expected, name))
    for name in ("logprob", "entropy", "gamma", "gamma_logprob", "features"):
        np.testing.assert_allclose(getattr(rollout, name), getattr(expected, name), atol=1e-5)


def some_tokens(seed):
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (ROWS, PROMPT + LENGTH))
    mask = np.concatenate([PROMPTS.mask, np.ones((ROWS, LENGTH), bool)], axis=1)
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)


def keys_and_values(params, x, positions, layer, config):
    """Keys and values of one row, [S Hk Dh] each."""
    b = jax.tree.map(lambda leaf: np.asarray(leaf[layer], np.float64), params["denoiser"]["blocks"])
    h, size = reference.rms_norm(x, b["attn_norm"]["scale"], config.norm_eps), 4
    k, v = (np.reshape(h @ b[name], (len(x), -1, size)) for name in ("k", "v"))
    heads = range(config.kv_heads)
    k = np.stack([reference.rotated(k[:, i], positions, config.rope_theta) for i in heads], axis=1)
    return b, h, k, v


def block(b, x, h, k, v, positions, mask, config):
    """One block for the positions of `x`, attending over k and v [S Hk Dh]."""
    q, size, heads = h @ b["q"], 4, []
    for head in range(config.heads):
        head_q = reference.rotated(
            q[:, head * size : (head + 1) * size], positions, config.rope_theta
        )
        kv = head // (config.heads // config.kv_heads)
        heads.append(reference.attend(head_q, k[:, kv], v[:, kv], mask))
    x = x + np.concatenate(heads, axis=-1) @ b["o"]
    h = reference.rms_norm(x, b["ff_norm"]["scale"], config.norm_eps)
    gate = h @ b["gate"]
    return x + (gate / (1 + np.exp(-gate)) * (h @ b["up"])) @ b["down"]


def test_positions_outside_the_span_keep_their_keys_and_values():
    config = ModelConfig(**SIZES)
    (old, mask), (new, _) = some_tokens(0), some_tokens(1)
    span, start = 3, np.array([0, 2, 7, 5, 4])
    _, kv = POLICY.hidden_and_kv(PARAMS, old, mask)
    got = POLICY.hidden_within(PARAMS, kv, new, mask, jnp.asarray(start), span)
    embed = np.asarray(PARAMS["denoiser"]["embed"], np.float64)
    scale = np.asarray(PARAMS["denoiser"]["norm"]["scale"], np.float64)
    for row in range(ROWS):
        row_mask = np.asarray(mask[row])
        positions = np.maximum(np.cumsum(row_mask) - 1, 0)
        at = slice(start[row], start[row] + span)
        stale, x = embed[np.asarray(old[row])], embed[np.asarray(new[row])[at]]
        for layer in range(config.layers):
            b, stale_h, k, v = keys_and_values(PARAMS, stale, positions, layer, config)
            stale = block(b, stale, stale_h, k, v, positions, row_mask, config)
            _, h, k[at], v[at] = keys_and_values(PARAMS, x, positions[at], layer, config)
            x = block(b, x, h, k, v, positions[at], row_mask, config)
        expected = reference.rms_norm(x, scale, config.norm_eps)
        np.testing.assert_allclose(got[row], expected, atol=2e-5)


def test_fresh_cache_equals_a_whole_pass():
    tokens, mask = some_tokens(0)
    hidden, kv = POLICY.hidden_and_kv(PARAMS, tokens, mask)
    np.testing.assert_array_equal(hidden, POLICY.hidden(PARAMS, tokens, mask))
    for start in (0, 3, 8):
        at = jnp.full(ROWS, start)
        got = POLICY.hidden_within(PARAMS, kv, tokens, mask, at, 2)
        np.testing.assert_allclose(got, hidden[:, start : start + 2], atol=1e-5)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("kind", ["prompt", "dual"])
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_cache_refreshed_at_every_call_is_exact(kind, rows, shift):
    assert_same(sampler(kind, 1, rows, shift=shift)(), sampler(shift=shift)())


@pytest.mark.parametrize("kind", ["prompt", "dual"])
def test_forced_call_commits_the_tokens_of_a_whole_pass(kind):
    capped = sampler(max_calls=2)()
    assert capped.forced.any()
    assert_same(sampler(kind, 1, max_calls=2)(), capped)
    # The call that commits all remaining blocks needs a refresh, however rare refreshes are.
    stale = sampler(kind, 0, max_calls=2)()
    assert (stale.commit_call[stale.forced] <= 2).all()
    assert (stale.tokens != MASK_ID).all()


@pytest.mark.parametrize("kind", ["prompt", "dual"])
@pytest.mark.parametrize("every", [0, 2])
class TestStale:
    def test_stale_cache_changes_distributions(self, kind, every):
        exact, stale = sampler()(), sampler(kind, every)()
        assert np.abs(stale.logprob - exact.logprob).max() > 1e-3
        np.testing.assert_allclose(stale.gamma, exact.gamma, rtol=1e-5)  # drawn at the first call

    def test_row_does_not_depend_on_its_batch(self, kind, every):
        rollout = sampler(kind, every)()
        order = np.random.default_rng(3).permutation(ROWS)
        moved = sampler(kind, every)(jax.tree.map(lambda x: x[order], PROMPTS), KEYS[order])
        assert_same(moved, jax.tree.map(lambda x: x[order], rollout))

    @pytest.mark.parametrize(("rows", "slots"), [(1, 0), (3, 0), (0, 2), (2, 3)])
    def test_partial_refreshes_and_streams_change_no_row(self, kind, every, rows, slots):
        assert_same(sampler(kind, every, rows, slots)(), sampler(kind, every)())


def test_refreshes_pass_only_the_due_rows():
    sizes = []

    def counted(params, tokens, mask):
        jax.debug.callback(lambda: sizes.append(tokens.shape[0]))
        return POLICY.hidden_and_kv(params, tokens, mask)

    settings = SamplerSettings(LENGTH, BLOCK, 0.8, cache=CacheSettings("dual", 0, 1))
    policy = POLICY._replace(hidden_and_kv=counted)
    run = jax.jit(generate.make_generate(policy, settings, threshold="drawn"))
    jax.block_until_ready(run(PARAMS, PROMPTS, np.float32(0), KEYS))
    jax.effects_barrier()
    assert sizes == [1] * (ROWS * LENGTH // BLOCK)  # one pass per row and block
