"""The probability of which positions were committed (METHOD 5; beyond the paper).

What the entropy-bounded rule commits depends on the denoiser's own entropies; an objective over
tokens alone gives the denoiser no gradient through that choice.  The rule commits exactly the set
U of a call iff lo ≤ γ < hi, with

    lo = Σ_U H − max_U H ,   hi = Σ_U H ,

hi = ∞ where U is all there was to commit.  With log γ ~ N(μ, σ²) the set's probability is
Φ((log hi − μ)/σ) − Φ((log lo − μ)/σ): of the committed positions' entropies alone, without a sort,
and differentiable in head and denoiser.  It takes the place of γ's own density.

Away from θ_old a set may cease to be a prefix of the order: its true probability is then 0 and the
value here is not, so inner updates should be few.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.diffusion import commit, end_of_text, likelihood, token_distribution
from diffpo_jax.diffusion.denoise import denoise
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.models.policy import Policy

# Nats.  A log-normal threshold is never so low; what is nearer to 0 is 0 up to rounding, and its
# logarithm would have a gradient without bound.
_LEAST = 1e-12


def bounds(
    entropy: Float[Array, "B L"], chosen: Bool[Array, "B L"], whole: Bool[Array, "B"]
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """lo and hi of the sets that calls committed, in nats.

    Args:
      entropy: H of every position in the state before the call.
      chosen: the set U; a row without any gets lo = 0, hi = inf, of probability 1.
      whole: U is everything that could be committed.
    """
    h = jnp.sort(jnp.where(chosen, entropy, 0.0), axis=1)
    # The sampler's own sums: excluded positions are zeros in front and add nothing.
    lo = commit.prefix_excess(h)[:, -1]
    whole = whole | ~jnp.any(chosen, axis=1)
    return lo, jnp.where(whole, jnp.inf, lo + h[:, -1])


def log_interval(
    lo: Float[Array, "*N"],
    hi: Float[Array, "*N"],
    mu: Float[Array, "*#N"],
    sigma: Float[Array, "*#N"],
) -> Float[Array, "*N"]:
    """log P(lo ≤ γ < hi) for log γ ~ N(μ, σ²); stable in both tails, finite gradients.

    Args:
      lo: 0 or more; 0, and what is nearly 0, means no lower bound.
      hi: above lo; inf means no upper bound.
    """
    tiny = _LEAST
    below, above = lo > tiny, jnp.isfinite(hi)
    # Double where: log 0 and log inf never enter, nor do their gradients.
    a = (jnp.log(jnp.where(below, lo, 1.0)) - mu) / sigma
    b = (jnp.log(jnp.where(above, jnp.maximum(hi, tiny), 1.0)) - mu) / sigma
    both = below & above
    # Where the interval lies above the mean, its mirror image has the precision.
    flip = both & (a > 0)
    left, right = jnp.where(flip, -b, a), jnp.where(flip, -a, b)
    left, right = jnp.where(both, left, -1.0), jnp.where(both, right, 1.0)
    gap = jnp.minimum(log_ndtr(left) - log_ndtr(right), -jnp.finfo(lo.dtype).eps)
    between = log_ndtr(right) + jnp.log1p(-jnp.exp(gap))
    one_sided = jnp.where(
        below,
        log_ndtr(-jnp.where(below, a, 0.0)),
        jnp.where(above, log_ndtr(jnp.where(above, b, 0.0)), 0.0),
    )
    return jnp.where(both, between, one_sided)


def call_bounds(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    rollout: Rollout,
    settings: SamplerSettings,
) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
    """lo and hi of every call of the rollouts, under these parameters.

    Cost: a denoiser call for each call of the longest rollout; memory does not grow with them.
    Calls that the cap forced, and calls that a row did not make, have the bounds 0 and inf.  N is
    the largest number of calls that the sampler's settings allow.
    """
    commit_call = jnp.where(rollout.sampled, rollout.commit_call, jnp.iinfo(jnp.int32).max)
    rows = commit_call.shape[0]

    def of_hidden(hidden: Array, gone: Array) -> Array:
        logits = end_of_text.mask_end_logits(policy.logits(params, hidden), gone, settings.end)
        return token_distribution.entropy(token_distribution.log_probs(logits, policy.mask_id, 1.0))

    def one_pass(number: Int[Array, ""]) -> tuple[Array, Array]:
        before = jnp.full(rows, number - 1)
        state = likelihood.state_at(rollout.tokens, commit_call, before, policy.mask_id)
        open_ = commit_call >= number
        hidden = denoise(policy, params, prompts, state).hidden
        gone = end_of_text.suppressed(open_, settings.end)
        entropy = token_distribution.map_positions(of_hidden, settings.chunk, hidden, gone)
        chosen = commit_call == number
        allowed = open_ & commit.current_block(open_, settings.block_length)
        lo, hi = bounds(entropy, chosen, jnp.all(chosen == allowed, axis=1))
        forced = (number == settings.max_calls) & rollout.forced
        return jnp.where(forced, 0.0, lo), jnp.where(forced, jnp.inf, hi)

    def nothing(number: Int[Array, ""]) -> tuple[Array, Array]:
        zero = jnp.zeros(rows, rollout.logprob.dtype)
        return zero, zero + jnp.inf

    @jax.checkpoint
    def one_call(carry: None, number: Int[Array, ""]):
        return carry, jax.lax.cond(jnp.any(rollout.nfe >= number), one_pass, nothing, number)

    _, (lo, hi) = jax.lax.scan(one_call, None, _call_numbers(settings))
    return lo.T, hi.T


def recorded_bounds(
    rollout: Rollout, settings: SamplerSettings
) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
    """lo and hi of every call from the entropies the sampler recorded: those of θ_old, no pass."""
    commit_call = jnp.where(rollout.sampled, rollout.commit_call, jnp.iinfo(jnp.int32).max)

    def one_call(number: Int[Array, ""]) -> tuple[Array, Array]:
        chosen, open_ = commit_call == number, commit_call >= number
        allowed = open_ & commit.current_block(open_, settings.block_length)
        lo, hi = bounds(rollout.entropy, chosen, jnp.all(chosen == allowed, axis=1))
        forced = (number == settings.max_calls) & rollout.forced
        return jnp.where(forced, 0.0, lo), jnp.where(forced, jnp.inf, hi)

    return jax.vmap(one_call, out_axes=1)(_call_numbers(settings))


def _call_numbers(settings: SamplerSettings) -> Int[Array, "N"]:
    return jnp.arange(1, (settings.max_calls or settings.length) + 1, dtype=jnp.int32)


def log_selection(
    lo: Float[Array, "B N"],
    hi: Float[Array, "B N"],
    mu: Float[Array, "B"],
    sigma: Float[Array, "B"],
    scope: str,
) -> Float[Array, "B N"] | Float[Array, "B 1"]:
    """log-probability of the sets: a term a call where γ is drawn for each, or one for the row.

    Args:
      scope: "call": γ afresh at each call, a product over calls; "prompt": one γ, which all
        calls' intervals must contain.
    """
    if scope == "call":
        return log_interval(lo, hi, mu[:, None], sigma[:, None])
    lo, hi = jnp.max(lo, axis=1, keepdims=True), jnp.min(hi, axis=1, keepdims=True)
    return log_interval(lo, hi, mu[:, None], sigma[:, None])
