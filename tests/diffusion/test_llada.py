"""The rule "top_k" against LLaDA's published sampler, written again from its description."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.diffusion import sampler as generate
from diffpo_jax.diffusion.settings import Rule, SamplerSettings
from diffpo_jax.models.policy import Policy

LENGTH, PROMPT, ROWS, VOCAB, MASK_ID = 12, 5, 4, 6, 5
POLICY, PARAMS = reference.tiny_policy(seed=3, vocab=VOCAB, mask_id=MASK_ID)
PROMPTS = reference.some_prompts(1, ROWS, PROMPT, MASK_ID)
KEYS = jax.random.split(jax.random.key(0), ROWS)


@jax.jit
def logits_at(completion):
    tokens = jnp.concatenate([PROMPTS.tokens, completion], axis=1)
    mask = jnp.concatenate([PROMPTS.mask, jnp.ones(completion.shape, bool)], axis=1)
    return POLICY.logits(PARAMS, POLICY.hidden(PARAMS, tokens, mask))[:, PROMPT:]


def llada(block_length, steps):
    """From all mask, in every step of every block, commits the argmax at the n_i surest masks."""
    x = np.full((ROWS, LENGTH), MASK_ID)
    blocks = LENGTH // block_length
    block_steps = steps // blocks
    calls = np.zeros((ROWS, LENGTH), int)
    call = 0
    for block in range(blocks):
        end = (block + 1) * block_length
        masks = (x[:, :end] == MASK_ID).sum(axis=1)
        base, rest = masks // block_steps, masks % block_steps
        for step in range(block_steps):
            call += 1
            logits = np.array(logits_at(x.astype(np.int32)), np.float64)
            logits[..., MASK_ID] = -np.inf  # a trained LLaDA never predicts the mask
            x0 = logits.argmax(axis=-1)
            p = np.exp(logits - logits.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            confidence = np.take_along_axis(p, x0[..., None], axis=-1)[..., 0]
            confidence[:, end:] = -np.inf
            confidence[x != MASK_ID] = -np.inf
            for row in range(ROWS):
                count = base[row] + (step < rest[row])
                chosen = np.argsort(-confidence[row], kind="stable")[:count]
                x[row, chosen] = x0[row, chosen]
                calls[row, chosen] = call
    return x, calls


@functools.cache
def sampler(block_length, ranking):
    settings = SamplerSettings(LENGTH, block_length, 0.0, rule=Rule("top_k"), ranking=ranking)
    return jax.jit(generate.make_generate(POLICY, settings, threshold="fixed"))


@pytest.mark.parametrize("ranking", ["confidence", "drawn"])  # equal at T = 0
@pytest.mark.parametrize(
    ("block_length", "steps"),
    [(12, 1), (12, 5), (12, 6), (12, 12), (6, 2), (6, 8), (4, 3), (4, 6), (3, 4), (3, 12), (1, 12)],
)
def test_top_k_equals_llada_token_for_token_at_temperature_zero(block_length, steps, ranking):
    tokens, calls = llada(block_length, steps)
    run = sampler(block_length, ranking)
    rollout = jax.device_get(run(PARAMS, PROMPTS, jnp.float32(steps), KEYS))
    np.testing.assert_array_equal(rollout.tokens, tokens)
    np.testing.assert_array_equal(rollout.commit_call, calls)
    np.testing.assert_array_equal(rollout.nfe, calls.max(axis=1))


# Two positions.  At T = 0.9 the first one's 0.40 becomes 0.396, and the second one's 0.395 becomes
# 0.402: only the untempered probabilities put the first position first.
PLACES = np.array([[0.55, 0.40, 0.05, 1e-9], [0.395, 0.3025, 0.3025, 1e-9]])
DRAWS = 300


def test_drawn_ranks_by_the_untempered_probability_of_the_drawn_token():
    def hidden(params, tokens, mask):
        logits = jnp.broadcast_to(params["logits"], (tokens.shape[0], *PLACES.shape))
        return jnp.pad(logits, ((0, 0), (tokens.shape[1] - 2, 0), (0, 0)))

    policy = Policy(3, 4, 0, None, hidden, lambda params, states: states, None)
    settings = SamplerSettings(2, 2, 0.9, rule=Rule("top_k"), ranking="drawn")
    run = jax.jit(generate.make_generate(policy, settings, threshold="fixed"))
    keys = jax.random.split(jax.random.key(1), DRAWS)
    prompts = reference.some_prompts(2, DRAWS, PROMPT, 3)
    rollout = jax.device_get(run({"logits": jnp.log(PLACES)}, prompts, jnp.float32(2), keys))

    found = {}
    for row in range(DRAWS):
        u = jax.random.uniform(jax.random.fold_in(keys[row], 1), (2, 3))
        tempered = [reference.log_probs(np.log(p), 3, 0.9) for p in PLACES]
        token = [reference.draw(log_p, at[:2]) for log_p, at in zip(tempered, u)]
        first = int(PLACES[0, token[0]] < PLACES[1, token[1]])
        np.testing.assert_array_equal(rollout.commit_call[row], [1, 2] if first == 0 else [2, 1])
        assert rollout.tokens[row, first] == token[first]
        found[token[0], min(token[1], 1)] = first
    # By confidence the first position would always be first.
    assert found == {(0, 0): 0, (0, 1): 0, (1, 0): 0, (1, 1): 0, (2, 0): 1, (2, 1): 1}
