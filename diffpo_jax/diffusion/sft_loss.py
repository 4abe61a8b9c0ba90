"""Masking and loss of masked-diffusion training (LLaDA), with t ~ U(0, 1) and weight 1/t."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.arrays.types import Metrics, Params, Prompts
from diffpo_jax.diffusion import token_distribution
from diffpo_jax.diffusion.denoise import denoise
from diffpo_jax.models.policy import Policy


def corrupt(
    key: Key[Array, ""], target: Int[Array, "B L"], t_min: float
) -> tuple[Bool[Array, "B L"], Float[Array, "B"]]:
    """Returns which answer tokens are masked, and each row's p = (1 − t_min) t + t_min."""
    for_t, for_mask = jax.random.split(key)
    t = jax.random.uniform(for_t, target.shape[:1])
    p = (1 - t_min) * t + t_min
    return jax.random.uniform(for_mask, target.shape) < p[:, None], p


def sft_loss(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    target: Int[Array, "B L"],
    masked: Bool[Array, "B L"],
    p: Float[Array, "B"],
) -> tuple[Float[Array, ""], Metrics]:
    """Cross-entropy of the masked answer tokens over p, summed over the batch; and metrics.

    Divided by B·L, its expectation bounds −log p(answer)/L from above.  The prompt is never masked;
    tokens are scored without temperature.

    Args:
      masked, p: the results of `corrupt`.
    """
    state = jnp.where(masked, policy.mask_id, target)
    logits = policy.logits(params, denoise(policy, params, prompts, state).hidden)
    log_p = token_distribution.log_probs(logits, policy.mask_id, 1.0)
    loss = jnp.where(masked, -token_distribution.token_log_prob(log_p, target), 0.0)
    weighted = loss / p[:, None]
    hit = masked & (jnp.argmax(log_p, axis=-1) == target)
    metrics = {
        "loss": (jnp.sum(weighted), jnp.asarray(target.size)),
        "masked_accuracy": (jnp.sum(hit), jnp.sum(masked)),
    }
    return jnp.sum(weighted), metrics
