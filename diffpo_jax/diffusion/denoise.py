"""One call of the denoiser on a prompt and a partly written completion."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffpo_jax.masked import masked_sum
from diffpo_jax.models.policy import Policy
from diffpo_jax.types import Params, Prompts


class Denoised(NamedTuple):
    """What one call gives.  What is not used is not computed: XLA drops it."""

    logits: Float[Array, "B L V"]  # of the completion's positions
    features: Float[Array, "B D"]  # hidden states, mean over the prompt's real tokens


def denoise(
    policy: Policy, params: Params, prompts: Prompts, completion: Int[Array, "B L"]
) -> Denoised:
    """p_θ(· | c, z) as logits at every completion position, with the family's shift."""
    length = completion.shape[1]
    prompt_length = prompts.tokens.shape[1]
    tokens = jnp.concatenate([prompts.tokens, completion], axis=1)
    mask = jnp.concatenate([prompts.mask, jnp.ones(completion.shape, bool)], axis=1)
    hidden = policy.hidden(params, tokens, mask)
    start = prompt_length - policy.logit_shift
    logits = policy.logits(params, hidden[:, start : start + length])
    of_prompt = hidden[:, :prompt_length]
    total = masked_sum(of_prompt, prompts.mask[:, :, None], axis=1)
    count = jnp.sum(prompts.mask, axis=1, keepdims=True)
    return Denoised(logits, total / jnp.maximum(count, 1))
