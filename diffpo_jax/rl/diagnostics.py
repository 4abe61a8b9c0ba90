"""Metrics of the surrogate and of updates (docs/method.md, section 7), as (sum, count) pairs."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.arrays.masked import pair
from diffpo_jax.arrays.types import Metrics, Rollout
from diffpo_jax.config import ObjectiveConfig
from diffpo_jax.rl import objective

# Caps a log-ratio before exp, which would overflow float32; the KL is very large either way.
_LARGEST = 40.0


def surrogate_metrics(
    old: Float[Array, "B L"],
    rollout: Rollout,
    scored: Bool[Array, "B L"],
    exact: Bool[Array, "B L"],
    config: ObjectiveConfig,
) -> Metrics:
    """How far the surrogate π̂_old is from the policy π_old that made the rollouts.

    kl/token, kl/sequence: means of w − 1 − log w with w = π̂_old/π_old untruncated, an estimate of
      KL(π ‖ π̂).  If only some calls are scored, over their tokens.
    parity/*: share of the exactly scored tokens whose probability agrees with the sampler's within
      0.2, 1 and 5 %.
    kl/token and weights/* also by call, in names that end in /calls_FROM-TO: calls 1, 2-3, 4-7, ...

    Args:
      old: log π̂_old of each token.
      scored: tokens that are scored.
      exact: tokens that are scored in the very state they were drawn from.
    """
    log_w = jnp.where(scored, old - rollout.logprob, 0.0)
    sequence_log_w = jnp.sum(log_w, axis=1)
    rows = jnp.ones(sequence_log_w.shape, bool)
    truncated = jnp.exp(jnp.minimum(log_w, math.log(config.truncation)))
    error = jnp.abs(jnp.expm1(log_w))
    same = exact & scored
    token_values = {
        "kl/token": objective.exp_excess(jnp.minimum(log_w, _LARGEST)),
        "weights/mean": truncated,
        "weights/square": truncated**2,
        "weights/truncated": log_w > math.log(config.truncation),
    }
    by_call = {
        f"{name}/{calls}": pair(value, scored & made_by)
        for calls, made_by in _by_call(rollout.commit_call).items()
        for name, value in token_values.items()
    }
    return (
        {name: pair(value, scored) for name, value in token_values.items()}
        | {
            "kl/sequence": pair(objective.exp_excess(jnp.minimum(sequence_log_w, _LARGEST)), rows),
            "parity/0.2%": pair(error < 0.002, same),
            "parity/1%": pair(error < 0.01, same),
            "parity/5%": pair(error < 0.05, same),
        }
        | by_call
    )


def _by_call(commit_call: Int[Array, "B L"]) -> dict[str, Bool[Array, "B L"]]:
    """Tokens by the call that committed them, in ranges of calls that double."""
    ranges, first = {}, 1
    while first <= commit_call.shape[1]:
        last = min(2 * first - 1, commit_call.shape[1])
        name = f"calls_{first}-{last}" if last > first else f"calls_{first}"
        ranges[name] = (commit_call >= first) & (commit_call <= last)
        first *= 2
    return ranges


def ratio_metrics(
    new: Array,
    old: Array,
    reference: Array | None,
    counted: Bool[Array, "B L"],
    advantage: Float[Array, "B"],
    config: ObjectiveConfig,
) -> Metrics:
    """Share of clipped tokens, and KLs per token to the old policy and the reference (k3)."""
    log_ratio = objective.log_ratios(new, old, counted, config.ratio)
    metrics = {
        "clip/token": pair(objective.is_clipped(log_ratio, advantage[:, None], config), counted),
        "kl/old": pair(objective.kl_estimate(old, new, "k3"), counted),
    }
    if reference is not None:
        metrics["kl/reference"] = pair(objective.kl_estimate(reference, new, "k3"), counted)
    return metrics


def derived(values: dict[str, float], reward_range: float) -> dict[str, float]:
    """Adds metrics that are computed from means: effective sample sizes of w and Theorem 1's slack.

    weights/ess: (E w)² / E w², as a share of the tokens, also by call.  It replaces the means by
      call that it is made of.
    theorem1/slack: `theorem1_slack`, in reward; above about 2 nats of KL it is near r_max and
      bounds nothing.
    """
    out = dict(values)
    squares = [name for name in values if name.startswith("weights/square")]
    for name in squares:
        square, calls = values[name], name.removeprefix("weights/square")
        mean = values[f"weights/mean{calls}"]
        if square:
            out[f"weights/ess{calls}"] = mean**2 / square
        if calls:
            del out[name], out[f"weights/mean{calls}"]
    if "kl/sequence" in values:
        out["theorem1/slack"] = theorem1_slack(values["kl/sequence"], reward_range)
    return out


def theorem1_slack(kl: float, reward_range: float = 1.0) -> float:
    """r_max · min(√(KL/2), √(1 − e^−KL)): the most that the reward can be below the surrogate's.

    Args:
      kl: KL of a sequence, nats.
      reward_range: r_max.
    """
    return reward_range * min(math.sqrt(kl / 2), math.sqrt(-math.expm1(-kl)))
