"""What every update logs about itself (METHOD 7), as (sum, count) pairs."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffpo_jax.config import ObjectiveConfig
from diffpo_jax.masked import pair
from diffpo_jax.rl import objective
from diffpo_jax.types import Metrics, Rollout

# Where exp would overflow float32 a KL is "very large" either way.
_LARGEST = 40.0


def surrogate_metrics(
    old: Float[Array, "B L"],
    rollout: Rollout,
    scored: Bool[Array, "B L"],
    exact: Bool[Array, "B L"],
    config: ObjectiveConfig,
) -> Metrics:
    """How far the surrogate π̂_old is from the policy π_old that made the rollouts.

    kl/token, kl/sequence: means of w − 1 − log w with w = π̂_old/π_old untruncated: KL(π ‖ π̂).
    With only some calls scored, of those calls' tokens.
    parity/*: share of tokens scored at the very state they were drawn from whose probability
    agrees with the sampler's within 0.2, 1 and 5 %.
    """
    counted = scored
    log_w = jnp.where(counted, old - rollout.logprob, 0.0)
    of_sequence = jnp.sum(log_w, axis=1)
    rows = jnp.ones(of_sequence.shape, bool)
    truncated = jnp.exp(jnp.minimum(log_w, math.log(config.truncation)))
    off = jnp.abs(jnp.expm1(log_w))
    same = exact & counted
    return {
        "kl/token": pair(objective.exp_excess(jnp.minimum(log_w, _LARGEST)), counted),
        "kl/sequence": pair(objective.exp_excess(jnp.minimum(of_sequence, _LARGEST)), rows),
        "weights/mean": pair(truncated, counted),
        "weights/square": pair(truncated**2, counted),
        "weights/truncated": pair(log_w > math.log(config.truncation), counted),
        "parity/0.2%": pair(off < 0.002, same),
        "parity/1%": pair(off < 0.01, same),
        "parity/5%": pair(off < 0.05, same),
    }


def ratio_metrics(
    new: Array,
    old: Array,
    reference: Array | None,
    counted: Bool[Array, "B L"],
    advantage: Float[Array, "B"],
    config: ObjectiveConfig,
) -> Metrics:
    """Clip share and approximate KLs of the tokens."""
    log_ratio = objective.log_ratios(new, old, counted, config.ratio)
    bounds = (config.clip_low, config.clip_high, config.clip)
    metrics = {
        "clip/token": pair(objective.is_clipped(log_ratio, advantage[:, None], *bounds), counted),
        "kl/old": pair(objective.kl_estimate(old, new, "k3"), counted),
    }
    if reference is not None:
        metrics["kl/reference"] = pair(objective.kl_estimate(reference, new, "k3"), counted)
    return metrics


def derived(values: dict[str, float], reward_range: float) -> dict[str, float]:
    """Figures made from means: the effective sample size of w and Theorem 1's slack.

    weights/ess: (E w)² / E w², as a share of the tokens.
    theorem1/slack: r_max · min(√(KL/2), √(1 − e^−KL)), in reward; above about 2 nats of KL it
    says nothing (it nears r_max).
    """
    out = {}
    if values.get("weights/square"):
        out["weights/ess"] = values["weights/mean"] ** 2 / values["weights/square"]
    if "kl/sequence" in values:
        kl = values["kl/sequence"]
        bound = min(math.sqrt(kl / 2), math.sqrt(-math.expm1(-kl)))
        out["theorem1/slack"] = reward_range * bound
    return out
