"""The objective, term by term (METHOD 4 and 5); pure functions of arrays.

    w_k = stop_grad( min(C, π̂_old(o_k | c) / π_old(o_k | c, z_{t(k)−1})) )
    ρ_k = π̂_θ(o_k | c) / π̂_old(o_k | c)
    J   = mean_i 1/|o_i| Σ_k w_k · min(ρ_k A_i, clip(ρ_k, 1−ε_lo, 1+ε_hi) A_i) − β k3(π̂_ref, π̂_θ)
        + weight · mean_i min(ρ_γ A_i, clip(ρ_γ) A_i)

`w_k ρ_k = π̂_θ / π_rollout` where C does not truncate: the surrogate policy is trained off-policy
from rollouts of the true sampler.  With K = 1 and w = 1 this is d1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffpo_jax.config import ObjectiveConfig
from diffpo_jax.masked import masked_mean


def importance_weights(
    old: Float[Array, "B L"], rollout: Float[Array, "B L"], kind: str, cap: float
) -> Float[Array, "B L"]:
    """w of every token: the surrogate's old probability over the rollout's, at most C.

    Args:
      old: log π̂_old of each token.
      rollout: log π_old(o_k | c, z_{t(k)-1}), as the sampler recorded it.
      kind: "none" gives ones, "token" the truncated ratio.
      cap: C.
    """
    if kind == "none":
        return jnp.ones_like(old)
    if kind != "token":
        raise ValueError(f"unknown importance weights: {kind!r}")
    # The minimum inside the exponential: nothing overflows on its way to the cap.
    return jax.lax.stop_gradient(jnp.exp(jnp.minimum(old - rollout, jnp.log(cap))))


def clipped(
    log_ratio: Float[Array, "*N"], advantage: Float[Array, "*#N"], low: float, high: float
) -> Float[Array, "*N"]:
    """min(ρ A, clip(ρ, 1 − low, 1 + high) A), PPO's pessimistic surrogate."""
    ratio = jnp.exp(log_ratio)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - low, 1 + high) * advantage)


def is_clipped(
    log_ratio: Float[Array, "*N"], advantage: Float[Array, "*#N"], low: float, high: float
) -> Bool[Array, "*N"]:
    """Where the clip is active, that is where the gradient is 0."""
    ratio = jnp.exp(log_ratio)
    return ((ratio > 1 + high) & (advantage > 0)) | ((ratio < 1 - low) & (advantage < 0))


def k3(reference: Float[Array, "*N"], new: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """exp(d) − d − 1 with d = log π̂_ref − log π̂_θ: an estimate of KL(π̂_θ ‖ π̂_ref), never
    negative.  Over rollouts of π, and not of π̂, it is biased unless weighted by w."""
    return exp_excess(reference - new)


def exp_excess(d: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """exp(d) − d − 1, at least 0 and right for small d too.

    Ratios near 1 are the usual case, where the three terms would cancel to noise in float32.
    """
    small = jnp.abs(d) < 0.05
    # Double where: the series of a large d may overflow, and so may its gradient.
    x = jnp.where(small, d, 0.0)
    series = x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x / 120)))
    return jnp.where(small, series, jnp.expm1(d) - d)


def token_objective(
    new: Float[Array, "B L"],
    old: Float[Array, "B L"],
    rollout: Float[Array, "B L"],
    reference: Float[Array, "B L"] | None,
    counted: Bool[Array, "B L"],
    advantage: Float[Array, "B"],
    config: ObjectiveConfig,
) -> Float[Array, "B"]:
    """The tokens' part of J for each sequence, the mean over its counted tokens.

    Args:
      new, old, reference: log π̂ of each token under θ, θ_old and the reference, for one draw of
        anchors and prompt masks; the reference is needed where config.kl > 0.
      rollout: the sampler's own log-probabilities.
      counted: tokens that count: all sampled ones.
    """
    weight = importance_weights(old, rollout, config.weights, config.truncation)
    surrogate = clipped(new - old, advantage[:, None], config.clip_low, config.clip_high)
    value = weight * surrogate
    if config.kl:
        value = value - config.kl * k3(reference, new)
    return masked_mean(value, counted, axis=1)


def threshold_objective(
    new: Float[Array, "B"],
    old: Float[Array, "B"],
    sigma: Float[Array, "B"],
    advantage: Float[Array, "B"],
    config: ObjectiveConfig,
) -> Float[Array, "B"]:
    """The threshold's part of J for each sequence: γ as one more token, its own term.

    Args:
      new, old: log-density of log γ under φ and φ_old.
      sigma: of the log-normal under φ; its entropy is log σ + constant.
    """
    value = clipped(new - old, advantage, config.clip_low, config.clip_high)
    return config.gamma_weight * value + config.gamma_entropy * jnp.log(sigma)
