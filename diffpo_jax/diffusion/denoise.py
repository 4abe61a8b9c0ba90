"""One call of the denoiser on a prompt and a partly written completion."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.arrays.masked import masked_sum
from diffpo_jax.arrays.types import Params, Prompts
from diffpo_jax.models.policy import Policy


class Denoised(NamedTuple):
    """The results of one call.  XLA does not compute those that are not used."""

    hidden: Float[Array, "B L D"]  # `Policy.logits` of these: p_θ(· | c, z) at each position
    features: Float[Array, "B D"]  # hidden states, mean over the prompt's real tokens


def denoise(
    policy: Policy, params: Params, prompts: Prompts, completion: Int[Array, "B L"]
) -> Denoised:
    """Runs a whole pass; the hidden states are those that predict the completion's positions."""
    tokens, mask = join(prompts, completion)
    return _denoised(policy, prompts, policy.hidden(params, tokens, mask))


def denoise_guided(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    completion: Int[Array, "B L"],
    guidance: float,
) -> Denoised:
    """Runs two passes for classifier-free guidance, the second with every prompt token masked.

    Guided logits are u + (w + 1)(l − u), of logits l with the prompt and u without (LLaDA, arXiv
    2502.09992).  Logits are linear in hidden states, so these are combined instead: they are far
    smaller.  The features are those of the first pass.

    Args:
      guidance: w; 0 makes the first pass alone.
    """
    out = denoise(policy, params, prompts, completion)
    if not guidance:
        return out
    masked = prompts._replace(tokens=jnp.full_like(prompts.tokens, policy.mask_id))
    without = denoise(policy, params, masked, completion).hidden
    wide = jnp.promote_types(out.hidden.dtype, jnp.float32)
    given, without = out.hidden.astype(wide), without.astype(wide)
    guided = without + (guidance + 1) * (given - without)
    return out._replace(hidden=guided.astype(out.hidden.dtype))


def denoise_with_kv(
    policy: Policy, params: Params, prompts: Prompts, completion: Int[Array, "B L"]
) -> tuple[Denoised, Any]:
    """Runs a whole pass, and returns every layer's keys and values too."""
    hidden, kv = policy.hidden_and_kv(params, *join(prompts, completion))
    return _denoised(policy, prompts, hidden), kv


def join(
    prompts: Prompts, completion: Int[Array, "B L"]
) -> tuple[Int[Array, "B S"], Bool[Array, "B S"]]:
    """Joins prompts and completions into rows; the mask is False at padding."""
    tokens = jnp.concatenate([prompts.tokens, completion], axis=1)
    mask = jnp.concatenate([prompts.mask, jnp.ones(completion.shape, bool)], axis=1)
    return tokens, mask


def _denoised(policy: Policy, prompts: Prompts, hidden: Float[Array, "B S D"]) -> Denoised:
    prompt_length = prompts.tokens.shape[1]
    length = hidden.shape[1] - prompt_length
    start = prompt_length - policy.logit_shift
    total = masked_sum(hidden[:, :prompt_length], prompts.mask[:, :, None], axis=1)
    count = jnp.sum(prompts.mask, axis=1, keepdims=True)
    return Denoised(hidden[:, start : start + length], total / jnp.maximum(count, 1))
