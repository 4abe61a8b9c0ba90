"""KL from the sampler's distribution of a token to that of an earlier state (figure 2).

For token k, committed at call t(k), and every state s < t(k) (docs/method.md, section 8):

    D[k, s] = KL( p(· | c, z_{t(k)−1}) ‖ p(· | c, z_s) )    at position k, in nats.

A mean-field surrogate chooses an s for each token, so one matrix serves all surrogates: the KL per
token is D[k, s(k)], and the KL per sequence is the sum over its tokens (the chain rule, with the
expectation over each call's tokens taken exactly).
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
    policy: Policy, params: Params, prompts: Prompts, rollout: Rollout, settings: SamplerSettings
) -> Float[Array, "B L N"]:
    """D[k, s] for s = 0..L−1; 0 for s ≥ t(k) − 1 and for tokens that were filled in.

    Cost: two denoiser calls for each call of the longest rollout.  Memory: B·L·V.
    """
    calls = jnp.where(rollout.sampled, rollout.commit_call, 0)
    suppressed = end_of_text.suppressed_at_commit(rollout, settings.end)
    rows, length = calls.shape

    def log_p_from(s: Int[Array, ""]) -> Float[Array, "B L V"]:
        at = jnp.full(rows, s)
        state = likelihood.state_at(rollout.tokens, rollout.commit_call, at, policy.mask_id)
        logits = policy.logits(params, denoise(policy, params, prompts, state).hidden)
        logits = end_of_text.mask_end_logits(logits, suppressed, settings.end)
        return token_distribution.log_probs(logits, policy.mask_id, settings.temperature)

    def own_state(s: Int[Array, ""], true: Float[Array, "B L V"]) -> Float[Array, "B L V"]:
        return jnp.where((calls == s + 1)[..., None], log_p_from(s), true)

    states = jnp.max(calls)
    shape = jax.eval_shape(log_p_from, jnp.int32(0))
    true = jax.lax.fori_loop(0, states, own_state, jnp.zeros(shape.shape, shape.dtype))

    def column(s: Int[Array, ""], matrix: Float[Array, "B L N"]) -> Float[Array, "B L N"]:
        kl = kl_divergence(true, log_p_from(s))
        return matrix.at[..., s].set(jnp.where(s < calls - 1, kl, 0.0))

    return jax.lax.fori_loop(0, states, column, jnp.zeros((rows, length, length), shape.dtype))


def kl_divergence(log_p: Float[Array, "*N V"], log_q: Float[Array, "*N V"]) -> Float[Array, "*N"]:
    """KL(p ‖ q) in nats; entries of probability 0 under p count as 0."""
    positive = jnp.isfinite(log_p)
    log_p, log_q = (jnp.where(positive, x, 0.0) for x in (log_p, log_q))
    p, difference = jnp.where(positive, jnp.exp(log_p), 0.0), log_p - log_q
    # Each term p (e^-d - 1 + d) is at least 0, so nothing cancels if p and q are alike.  If they
    # are not, e^-d may overflow, and p e^-d is replaced by q.
    alike = jnp.abs(difference) < 1
    d = jnp.where(alike, difference, 0.0)
    q = jnp.where(positive, jnp.exp(log_q), 0.0)
    terms = jnp.where(alike, p * (jnp.expm1(-d) + d), q - p + p * difference)
    return jnp.sum(terms, axis=-1)
