"""The objective, term by term (docs/method.md, sections 4 and 5); pure functions of arrays.

    w_k = stop_grad( min(C, π̂_old(o_k | c) / π_old(o_k | c, z_{t(k)−1})) )
    ρ_k = π̂_θ(o_k | c) / π̂_old(o_k | c)
    J   = mean_i 1/|o_i| Σ_k w_k · min(ρ_k A_i, clip(ρ_k, 1−ε_lo, 1+ε_hi) A_i) − β k3(π̂_ref, π̂_θ)
        + weight · mean_i min(ρ_γ A_i, clip(ρ_γ) A_i)
        + η · mean over the tokens of right rollouts of log π̂_θ(o_k | c)

Weights, ratio, clip, KL and divisor have options; the above is the default, DiFFPO's.
`w_k ρ_k = π̂_θ / π_rollout` if C does not truncate: the surrogate policy is trained off-policy, from
rollouts of the true sampler.  With K = 1 and w = 1 this is d1.  η is 0 by default.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.arrays.masked import masked_mean, masked_sum
from diffpo_jax.config import ObjectiveConfig
from diffpo_jax.diffusion import end_of_text
from diffpo_jax.diffusion.settings import EndOfText


def counted_tokens(
    tokens: Int[Array, "B L"], sampled: Bool[Array, "B L"], end: EndOfText, kind: str
) -> Bool[Array, "B L"]:
    """The tokens that count in the objective.

    Args:
      kind: "sampled" for all that were drawn, including those after the end of the text, since
        later tokens were drawn from states that contain them; "to_end" for those up to the first
        end, as in d1.  With parallel decoding "to_end" biases the exact gradient.
    """
    if kind == "sampled":
        return sampled
    if kind != "to_end":
        raise ValueError(f"unknown count of tokens: {kind!r}")
    return sampled & end_of_text.up_to_end(tokens, end)


def importance_weights(
    old: Float[Array, "B L"],
    rollout: Float[Array, "B L"],
    counted: Bool[Array, "B L"],
    kind: str,
    cap: float,
) -> Float[Array, "B L"]:
    """The importance weight w of every token: π̂_old over the sampler's probability, at most C.

    Args:
      old: log π̂_old of each token.
      rollout: log π_old(o_k | c, z_{t(k)-1}), as the sampler recorded it.
      counted: tokens that count; the weights of others are meaningless.
      kind: "none" gives ones; "token" each token's truncated ratio; "sequence" the truncated
        product over a sequence's tokens, the same for all of them; "normalised" the token weights
        divided by their mean in the sequence (self-normalised by sequence, so that micro-batches
        change nothing); "inverted" the truncated π_old over π̂_old, as one public summary of the
        paper has it.  That is no correction: the mean over rollouts of π of a function times
        π̂_old / π is its mean under π̂_old, times the inverse it is nothing in particular.
      cap: C.
    """
    if kind == "none":
        return jnp.ones_like(old)
    if kind not in ("token", "sequence", "normalised", "inverted"):
        raise ValueError(f"unknown importance weights: {kind!r}")
    log_w = jnp.where(counted, old - rollout, 0.0)
    if kind == "inverted":
        log_w = -log_w
    if kind == "sequence":
        log_w = jnp.broadcast_to(jnp.sum(log_w, axis=1, keepdims=True), log_w.shape)
    # The minimum is taken inside the exponential, which could overflow otherwise.
    w = jnp.exp(jnp.minimum(log_w, jnp.log(cap)))
    if kind == "normalised":
        w = w / jnp.maximum(masked_mean(w, counted, axis=1), 1e-6)[:, None]
    return jax.lax.stop_gradient(w)


def log_ratios(
    new: Float[Array, "B L"], old: Float[Array, "B L"], counted: Bool[Array, "B L"], kind: str
) -> Float[Array, "B L"]:
    """log ρ of every token: its own, or the mean over the sequence's tokens (GSPO)."""
    log_ratio = jnp.where(counted, new - old, 0.0)
    if kind == "sequence":
        mean = masked_mean(log_ratio, counted, axis=1)
        return jnp.broadcast_to(mean[:, None], log_ratio.shape)
    if kind != "token":
        raise ValueError(f"unknown ratio: {kind!r}")
    return log_ratio


def clipped(
    log_ratio: Float[Array, "*N"], advantage: Float[Array, "*#N"], config: ObjectiveConfig
) -> Float[Array, "*N"]:
    """min(ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A), PPO's pessimistic surrogate.

    With `config.clip` "unconditional" it is clip(ρ) A whatever the sign of A: a ratio outside the
    bounds has no gradient then, not even back towards them.
    """
    ratio = jnp.exp(log_ratio)
    bounded = jnp.clip(ratio, 1 - config.clip_low, 1 + config.clip_high) * advantage
    return bounded if config.clip == "unconditional" else jnp.minimum(ratio * advantage, bounded)


def is_clipped(
    log_ratio: Float[Array, "*N"], advantage: Float[Array, "*#N"], config: ObjectiveConfig
) -> Bool[Array, "*N"]:
    """Whether the clip is active, so that the gradient is 0."""
    ratio = jnp.exp(log_ratio)
    above, below = ratio > 1 + config.clip_high, ratio < 1 - config.clip_low
    if config.clip == "unconditional":
        return (above | below) & (advantage != 0)
    return (above & (advantage > 0)) | (below & (advantage < 0))


def kl_estimate(
    reference: Float[Array, "*N"], new: Float[Array, "*N"], kind: str
) -> Float[Array, "*N"]:
    """A token's estimate of KL(π̂_θ ‖ π̂_ref) from d = log π̂_ref − log π̂_θ.

    Rollouts come from π, not π̂, so each estimate is biased unless it is weighted by w.

    Args:
      kind: "k1" for −d, unbiased under π̂ but of either sign, and with a mean gradient of 0 as a
        loss; "k2" for d²/2; "k3" for exp(d) − d − 1, never negative.
    """
    d = reference - new
    if kind == "k1":
        return -d
    if kind == "k2":
        return d * d / 2
    if kind == "k3":
        return exp_excess(d)
    raise ValueError(f"unknown estimator of the KL: {kind!r}")


def sequence_kl(
    old: Float[Array, "B L"],
    reference: Float[Array, "B L"],
    counted: Bool[Array, "B L"],
    kind: str,
) -> Float[Array, "B"]:
    """A sequence's estimate of KL(π̂_old ‖ π̂_ref), summed over its tokens; unbiased with k1.

    As a part of the reward, k1 has the gradient of this KL.  The gradients of k2 and k3 vanish to
    leading order near the reference.
    """
    reference, old = (jnp.where(counted, x, 0.0) for x in (reference, old))
    return jnp.sum(kl_estimate(reference, old, kind), axis=1)


def exp_excess(d: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """exp(d) − d − 1, at least 0 and accurate for small d.

    Ratios are usually near 1, where the three terms would cancel to noise in float32.
    """
    small = jnp.abs(d) < 0.05
    # A second where: the series of a large d may overflow, and so may its gradient.
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
    *,
    scale: Float[Array, "B L"] | None = None,
    batch_tokens: Float[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """The token term of J for each sequence: Σ over its counted tokens / `token_divisor`.

    Args:
      new, old, reference: log π̂ of each token under θ, θ_old and the reference, for one draw of
        anchors and prompt masks; the reference may be None unless the KL is in the loss.
      rollout: the sampler's own log-probabilities.
      counted: tokens that count, from `counted_tokens`.
      scale: weight of each token in the sum if only some calls are scored; 0 for those that are
        not.
      batch_tokens: mean number of counted tokens per sequence of the whole batch, in every row;
        for aggregation "token".
    """
    scored = counted if scale is None else counted & (scale > 0)
    weight = importance_weights(old, rollout, scored, config.weights, config.truncation)
    log_ratio = log_ratios(new, old, scored, config.ratio)
    value = weight * clipped(log_ratio, advantage[:, None], config)
    if config.kl and config.kl_in == "loss":
        # Values that are not scored may be infinite, and 0 times inf in a gradient is NaN.
        reference, new = (jnp.where(scored, x, 0.0) for x in (reference, new))
        value = value - config.kl * kl_estimate(reference, new, config.kl_estimator)
    if scale is not None:
        value = value * scale
    divisor = token_divisor(counted, batch_tokens, config.aggregation)
    return masked_sum(value, scored, axis=1) / jnp.maximum(divisor, 1)


def likelihood_objective(
    new: Float[Array, "B L"],
    counted: Bool[Array, "B L"],
    right: Bool[Array, "B"],
    right_tokens: Float[Array, "B"],
    config: ObjectiveConfig,
    *,
    scale: Float[Array, "B L"] | None = None,
) -> Float[Array, "B"]:
    """The likelihood term of J for each sequence: 0 unless its rollout is right.

    The mean of these values over the batch is η times the mean of log π̂_θ over the tokens of all
    right rollouts (the term of LightningRL).  It has neither an advantage nor a ratio, so it is the
    only one from which groups learn whose rollouts are all right and equally fast.

    Args:
      new: log π̂_θ of each token.
      counted: tokens that count, from `counted_tokens`.
      right: whether the task judges a rollout right, whatever its price.
      right_tokens: the counted tokens of all right rollouts of the whole batch, over its number of
        sequences, in every row.
      config: η is `right_likelihood`.
      scale: as in `token_objective`.
    """
    scored = counted if scale is None else counted & (scale > 0)
    scored &= right[:, None]
    value = jnp.where(scored, new, 0.0)  # values that are not scored may be infinite
    if scale is not None:
        value = value * scale
    divisor = jnp.where(right_tokens > 0, right_tokens, 1.0)  # no right rollout: nothing to divide
    return config.right_likelihood * masked_sum(value, scored, axis=1) / divisor


def selection_objective(
    new: Float[Array, "B N"],
    old: Float[Array, "B N"],
    tokens: Float[Array, "B"],
    advantage: Float[Array, "B"],
    config: ObjectiveConfig,
) -> Float[Array, "B"]:
    """The term of the committed sets in J for each sequence: the sum of one clipped ratio per call.

    If one γ holds for the whole rollout there is one ratio.  The sum is divided like the token
    term: the two are one log-likelihood, of which tokens were written and where.

    Args:
      new, old: log-probability of each call's set under θ and θ_old; 0 for calls not made.
      tokens: the divisor of the token term.
    """
    value = clipped(new - old, advantage[:, None], config)
    made = jax.lax.stop_gradient(new) != 0  # a certain set has no gradient and does not count
    total = masked_sum(value, made, axis=1) / jnp.maximum(tokens, 1)
    return config.gamma_weight * total


def token_divisor(
    counted: Bool[Array, "B L"], batch_tokens: Float[Array, "B"] | None, aggregation: str
) -> Float[Array, "B"]:
    """The divisor of a sequence's sum over tokens.

    Args:
      aggregation: "sequence" for its number of counted tokens (the paper); "token" for the mean of
        that number over the batch, so that all tokens of the batch weigh the same; "constant" for
        L.
    """
    tokens = jnp.sum(counted, axis=1).astype(jnp.float32)
    if aggregation == "sequence":
        return tokens
    return batch_tokens if aggregation == "token" else jnp.full_like(tokens, counted.shape[1])


def threshold_objective(
    new: Float[Array, "B"],
    old: Float[Array, "B"],
    sigma: Float[Array, "B"],
    advantage: Float[Array, "B"],
    config: ObjectiveConfig,
) -> Float[Array, "B"]:
    """The threshold term of J for each sequence: γ as one more token.

    Args:
      new, old: log-density of log γ under φ and φ_old.
      sigma: of the log-normal under φ; its entropy is log σ + constant.
    """
    value = clipped(new - old, advantage, config)
    return config.gamma_weight * value + config.gamma_entropy * jnp.log(sigma)
