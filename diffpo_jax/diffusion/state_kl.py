"""How far a look from an earlier state is from the one the sampler had (METHOD 9, figure 2).

For token k, committed at call t(k), and every state s < t(k):

    D[k, s] = KL( p(· | c, z_{t(k)−1}) ‖ p(· | c, z_s) )    at position k, in nats.

Every mean-field surrogate is a choice of s for each token, so one matrix answers for all of them:
its KL per token is D[k, s(k)], and its KL per sequence the sum over the tokens (the chain rule,
with the expectation over each call's tokens taken exactly).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.diffusion import end_of_text, likelihood, token_distribution
from diffpo_jax.diffusion.denoise import denoise
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.models.policy import Policy


def kl_from_states(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    rollout: Rollout,
    settings: SamplerSettings,
) -> Float[Array, "B L N"]:
    """D[k, s] for s = 0..L−1; 0 where s ≥ t(k) − 1, and for tokens that were filled in.

    Cost: two denoiser calls for each call of the longest rollout.  Memory: B·L·V.
    """
    calls = jnp.where(rollout.sampled, rollout.commit_call, 0)
    gone = end_of_text.suppressed_at_commit(rollout.commit_call, rollout.sampled, settings.end)
    rows, length = calls.shape

    def log_p_from(s: Int[Array, ""]) -> Float[Array, "B L V"]:
        at = jnp.full(rows, s)
        state = likelihood.state_at(rollout.tokens, rollout.commit_call, at, policy.mask_id)
        logits = policy.logits(params, denoise(policy, params, prompts, state).hidden)
        logits = end_of_text.mask_end_logits(logits, gone, settings.end)
        return token_distribution.log_probs(logits, policy.mask_id, settings.temperature)

    def own(s: Int[Array, ""], true: Array) -> Array:
        return jnp.where((calls == s + 1)[..., None], log_p_from(s), true)

    states = jnp.max(calls)
    shape = jax.eval_shape(log_p_from, jnp.int32(0))
    true = jax.lax.fori_loop(0, states, own, jnp.zeros(shape.shape, shape.dtype))

    def column(s: Int[Array, ""], matrix: Array) -> Array:
        kl = kl_divergence(true, log_p_from(s))
        return matrix.at[..., s].set(jnp.where(s < calls - 1, kl, 0.0))

    return jax.lax.fori_loop(0, states, column, jnp.zeros((rows, length, length), shape.dtype))


def kl_divergence(log_p: Float[Array, "*N V"], log_q: Float[Array, "*N V"]) -> Float[Array, "*N"]:
    """KL(p ‖ q) in nats; entries of probability 0 under p count nothing."""
    there = jnp.isfinite(log_p)
    log_p, log_q = (jnp.where(there, x, 0.0) for x in (log_p, log_q))
    p, difference = jnp.where(there, jnp.exp(log_p), 0.0), log_p - log_q
    # Each term p (e^-d - 1 + d) is at least 0: no cancellation where p and q are alike.  Where
    # they are not, e^-d may overflow, and p e^-d is q.
    alike = jnp.abs(difference) < 1
    d = jnp.where(alike, difference, 0.0)
    q = jnp.where(there, jnp.exp(log_q), 0.0)
    terms = jnp.where(alike, p * (jnp.expm1(-d) + d), q - p + p * difference)
    return jnp.sum(terms, axis=-1)
