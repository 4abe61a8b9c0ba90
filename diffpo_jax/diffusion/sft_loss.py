"""Masking and loss of masked-diffusion training (LLaDA), with t ~ U(0, 1) and weight 1/t."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.arrays.types import Metrics, Params, Prompts
from diffpo_jax.diffusion import blocks, token_distribution
from diffpo_jax.diffusion.denoise import denoise, denoise_with_kv
from diffpo_jax.models.policy import Policy


def corrupt(
    key: Key[Array, ""], target: Int[Array, "B L"], t_min: float, policy: Policy, prompts: Prompts
) -> tuple[Bool[Array, "B L"], Float[Array, "B L"]]:
    """Returns which answer tokens are masked, and p = (1 − t_min) t + t_min of each.

    t is drawn for each row; where attention is by blocks, for each block (BD3LM).
    """
    for_t, for_mask = jax.random.split(key)
    rows, length = target.shape
    if policy.attention_block is None:
        t = jnp.broadcast_to(jax.random.uniform(for_t, (rows, 1)), (rows, length))
    else:
        t = jax.random.uniform(for_t, (rows, blocks.count(policy, length), 1))
        offset = blocks.offsets(policy, prompts)
        t = blocks.by_position(t, policy.attention_block, offset, length)[:, :, 0]
    p = (1 - t_min) * t + t_min
    return jax.random.uniform(for_mask, target.shape) < p, p


def sft_loss(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    target: Int[Array, "B L"],
    masked: Bool[Array, "B L"],
    p: Float[Array, "B L"],
) -> tuple[Float[Array, ""], Metrics]:
    """Cross-entropy of the masked answer tokens over p, summed over the batch; and metrics.

    Divided by B·L, its expectation bounds −log p(answer)/L from above.  The prompt is never masked;
    tokens are scored without temperature.

    Args:
      masked, p: the results of `corrupt`.
    """
    state = jnp.where(masked, policy.mask_id, target)
    if policy.attention_block is None:
        hidden = denoise(policy, params, prompts, state).hidden
    else:  # the blocks before each are whole, as when it is written
        clean = denoise_with_kv(policy, params, prompts, target)
        hidden = blocks.denoise_beside(policy, params, prompts, clean, state)
    logits = policy.logits(params, hidden)
    log_p = token_distribution.log_probs(logits, policy.mask_id, 1.0)
    loss = jnp.where(masked, -token_distribution.token_log_prob(log_p, target), 0.0)
    weighted = loss / p
    hit = masked & (jnp.argmax(log_p, axis=-1) == target)
    metrics = {
        "loss": (jnp.sum(weighted), jnp.asarray(target.size)),
        "masked_accuracy": (jnp.sum(hit), jnp.sum(masked)),
    }
    return jnp.sum(weighted), metrics
