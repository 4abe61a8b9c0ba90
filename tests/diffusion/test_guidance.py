"""Guided calls against LLaDA's published sampler with cfg_scale, written from its description."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.config import SamplerConfig
from diffpo_jax.diffusion import denoise
from diffpo_jax.diffusion import sampler as generate
from diffpo_jax.diffusion.settings import EndOfText, Rule, SamplerSettings

LENGTH, BLOCK, PROMPT, ROWS, VOCAB, MASK_ID = 8, 4, 5, 4, 6, 5
POLICY, PARAMS = reference.tiny_policy(seed=3, vocab=VOCAB, mask_id=MASK_ID)
PROMPTS = reference.some_prompts(1, ROWS, PROMPT, MASK_ID)
KEYS = jax.random.split(jax.random.key(0), ROWS)


@jax.jit
def logits_at(tokens):
    mask = jnp.concatenate([PROMPTS.mask, jnp.ones((ROWS, LENGTH), bool)], axis=1)
    return POLICY.logits(PARAMS, POLICY.hidden(PARAMS, tokens, mask))


def guided_logits(x, scale):
    """un + (scale + 1) (cond - un), of two whole rows; in the second the prompt is masked."""
    unconditional = x.copy()
    unconditional[:, :PROMPT] = MASK_ID
    cond, un = (np.array(logits_at(y), np.float64) for y in (x, unconditional))
    return un + (scale + 1) * (cond - un)


def llada(steps, scale):
    """Two positions of each block in every step, the argmax at the surest ones."""
    prompt = np.asarray(PROMPTS.tokens)
    x = np.concatenate([prompt, np.full((ROWS, LENGTH), MASK_ID)], axis=1).astype(np.int32)
    calls = np.zeros(x.shape, int)
    count = LENGTH // steps
    for step in range(steps):
        end = PROMPT + BLOCK * (1 + step * count // BLOCK)
        logits = guided_logits(x, scale)
        logits[..., MASK_ID] = -np.inf
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        confidence = np.where((x == MASK_ID) & (np.arange(x.shape[1]) < end), p.max(-1), -np.inf)
        confidence[:, :PROMPT] = -np.inf
        for row in range(ROWS):
            chosen = np.argsort(-confidence[row], kind="stable")[:count]
            x[row, chosen] = p[row, chosen].argmax(-1)
            calls[row, chosen] = step + 1
    return x[:, PROMPT:], calls[:, PROMPT:]


@functools.cache
def sampler(guidance, slots=None, policy=POLICY, **how):
    how = {"block_length": BLOCK, "temperature": 0.0, "rule": Rule("top_k")} | how
    settings = SamplerSettings(LENGTH, ranking="confidence", guidance=guidance, **how)
    run = jax.jit(generate.make_generate(policy, settings, threshold="fixed", slots=slots))
    return lambda steps, prompts=PROMPTS, keys=KEYS: jax.device_get(
        run(PARAMS, prompts, jnp.float32(steps), keys)
    )


@pytest.mark.parametrize("slots", [None, 2])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_guided_top_k_equals_llada_token_for_token(scale, slots):
    different = 0
    for steps in (2, 4, 8):
        tokens, calls = llada(steps, scale)
        rollout = sampler(scale, slots)(steps)
        np.testing.assert_array_equal(rollout.tokens, tokens)
        np.testing.assert_array_equal(rollout.commit_call, calls)
        np.testing.assert_array_equal(rollout.nfe, 2 * steps)
        assert rollout.sampled.all()
        different += (llada(steps, 0.0)[0] != tokens).sum()
    assert different > 0


def test_nfe_is_the_number_of_passes():
    passes = []

    def hidden(params, tokens, mask):
        jax.debug.callback(lambda: passes.append(1))
        return POLICY.hidden(params, tokens, mask)

    for guidance in (0.0, 0.5):
        passes.clear()
        rollout = sampler(guidance, policy=POLICY._replace(hidden=hidden))(4)
        jax.effects_barrier()
        np.testing.assert_array_equal(rollout.nfe, len(passes))


def test_rows_that_share_a_first_call_are_guided_in_it():
    prompts = jax.tree.map(lambda x: jnp.repeat(x[:2], 2, axis=0), PROMPTS)
    one, shared = (
        sampler(1.0, rows_per_prompt=n, temperature=0.7)(4, prompts=prompts) for n in (1, 2)
    )
    np.testing.assert_array_equal(one.tokens, shared.tokens)
    np.testing.assert_array_equal(one.commit_call, shared.commit_call)
    np.testing.assert_array_equal(shared.nfe, 8)


def test_tokens_filled_in_after_an_end_are_not_sampled():
    everything = EndOfText(tuple(range(MASK_ID)), 0, stop=True)  # any token ends the text
    rollout = sampler(0.5, end=everything)(8)
    first = rollout.commit_call[:, :1]  # the text is done once its first token is there
    np.testing.assert_array_equal(rollout.nfe, 2 * first[:, 0])
    np.testing.assert_array_equal(rollout.sampled, rollout.commit_call <= first)
    assert not rollout.sampled.all()


@pytest.mark.parametrize("shift", [0, 1])
def test_hidden_states_give_the_guided_logits_and_the_features_are_the_prompts_own(shift):
    policy = POLICY._replace(logit_shift=shift)
    completion = jnp.full((ROWS, LENGTH), MASK_ID).at[:, 2].set(1)
    got = jax.jit(lambda x: denoise.denoise_guided(policy, PARAMS, PROMPTS, x, 1.5))(completion)
    x = np.concatenate([PROMPTS.tokens, completion], axis=1)
    expected = guided_logits(x, 1.5)[:, PROMPT - shift : PROMPT - shift + LENGTH]
    np.testing.assert_allclose(policy.logits(PARAMS, got.hidden), expected, atol=1e-4)
    plain = denoise.denoise(policy, PARAMS, PROMPTS, completion)
    np.testing.assert_allclose(got.features, plain.features, atol=1e-5)


def test_settings_take_guidance_and_schedule_from_the_configuration():
    config = SamplerConfig(rule="top_k", ranking="margin", schedule="dream", eps=0.02, guidance=0.5)
    settings = generate.make_settings(config, 0.0, (1,))
    assert settings.guidance == 0.5
    assert settings.rule == Rule("top_k", schedule="dream", eps=0.02)
