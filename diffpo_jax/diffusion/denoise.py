"""One call of the denoiser on a prompt and a partly written completion."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.arrays.masked import masked_sum
from diffpo_jax.arrays.types import Params, Prompts
from diffpo_jax.models.policy import Policy


class Denoised(NamedTuple):
    """What one call gives.  What is not used is not computed: XLA drops it."""

    hidden: Float[Array, "B L D"]  # `Policy.logits` of these: p_θ(· | c, z) at each position
    features: Float[Array, "B D"]  # hidden states, mean over the prompt's real tokens


def denoise(
    policy: Policy, params: Params, prompts: Prompts, completion: Int[Array, "B L"]
) -> Denoised:
    """A whole pass; hidden states are those that predict a position, by the family's shift."""
    tokens, mask = join(prompts, completion)
    return _parts(policy, prompts, policy.hidden(params, tokens, mask))


def denoise_with_kv(
    policy: Policy, params: Params, prompts: Prompts, completion: Int[Array, "B L"]
) -> tuple[Denoised, Any]:
    """The same, with every layer's keys and values."""
    hidden, kv = policy.hidden_and_kv(params, *join(prompts, completion))
    return _parts(policy, prompts, hidden), kv


def join(
    prompts: Prompts, completion: Int[Array, "B L"]
) -> tuple[Int[Array, "B S"], Bool[Array, "B S"]]:
    """Prompt and completion in one row, and which of it is no padding."""
    tokens = jnp.concatenate([prompts.tokens, completion], axis=1)
    mask = jnp.concatenate([prompts.mask, jnp.ones(completion.shape, bool)], axis=1)
    return tokens, mask


def _parts(policy: Policy, prompts: Prompts, hidden: Float[Array, "B S D"]) -> Denoised:
    prompt_length = prompts.tokens.shape[1]
    length = hidden.shape[1] - prompt_length
    start = prompt_length - policy.logit_shift
    of_prompt = hidden[:, :prompt_length]
    total = masked_sum(of_prompt, prompts.mask[:, :, None], axis=1)
    count = jnp.sum(prompts.mask, axis=1, keepdims=True)
    return Denoised(hidden[:, start : start + length], total / jnp.maximum(count, 1))
