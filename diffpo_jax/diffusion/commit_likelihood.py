"""The probability of the sets of positions that were committed (docs/method.md, section 5).

The set that the entropy-bounded rule commits depends on the denoiser's own entropies, and an
objective over tokens alone gives the denoiser no gradient through that choice.  The rule commits
exactly the set U in a call iff lo ≤ γ < hi, with

    lo = Σ_U H − max_U H ,   hi = Σ_U H ,

and hi = ∞ if U is everything that could be committed.  With log γ ~ N(μ, σ²) the probability of U
is Φ((log hi − μ)/σ) − Φ((log lo − μ)/σ).  It needs only the entropies of the committed positions
and no sort, and is differentiable in head and denoiser.  It replaces γ's own density (beyond the
paper).

Away from θ_old a set may no longer be a prefix of the order: its true probability is then 0 but the
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

# Nats.  No log-normal threshold is so low; smaller numbers are 0 up to rounding, and the gradients
# of their logarithms would have no bound.
_LEAST = 1e-12


def bounds(
    entropy: Float[Array, "B L"], chosen: Bool[Array, "B L"], whole: Bool[Array, "B"]
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """lo and hi of the sets that one call committed, in nats.

    Args:
      entropy: H of every position in the state before the call.
      chosen: the set U; a row with an empty set gets lo = 0 and hi = inf, of probability 1.
      whole: whether U is everything that could be committed.
    """
    h = jnp.sort(jnp.where(chosen, entropy, 0.0), axis=1)
    # The sampler's own sum: other positions are zeros at the front and add nothing.
    lo = commit.prefix_excess(h)[:, -1]
    whole = whole | ~jnp.any(chosen, axis=1)
    return lo, jnp.where(whole, jnp.inf, lo + h[:, -1])


def log_interval(
    lo: Float[Array, "*N"],
    hi: Float[Array, "*N"],
    mu: Float[Array, "*#N"],
    sigma: Float[Array, "*#N"],
) -> Float[Array, "*N"]:
    """log P(lo ≤ γ < hi) for log γ ~ N(μ, σ²), stable in both tails and with finite gradients.

    Args:
      lo: 0 or more; 0, or nearly 0, means no lower bound.
      hi: above lo; inf means no upper bound.
    """
    below, above = lo > _LEAST, jnp.isfinite(hi)
    # Double where: log 0 and log inf are never computed, nor are their gradients.
    a = (jnp.log(jnp.where(below, lo, 1.0)) - mu) / sigma
    b = (jnp.log(jnp.where(above, jnp.maximum(hi, _LEAST), 1.0)) - mu) / sigma
    both = below & above
    # For an interval above the mean, its mirror image keeps the precision.
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
    policy: Policy, params: Params, prompts: Prompts, rollout: Rollout, settings: SamplerSettings
) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
    """lo and hi of every call of the rollouts, under these parameters.

    N is the largest number of calls that the settings allow.  Calls that the cap forced, and calls
    that a row did not make, have the bounds 0 and inf.  Cost: a denoiser call for each call of the
    longest rollout; memory does not grow with their number.
    """
    rollout, rows = _never_commit_filled(rollout), rollout.nfe.shape[0]

    def entropy_of(
        hidden: Float[Array, "B c D"], suppressed: Bool[Array, "B c"]
    ) -> Float[Array, "B c"]:
        logits = policy.logits(params, hidden)
        logits = end_of_text.mask_end_logits(logits, suppressed, settings.end)
        return token_distribution.entropy(token_distribution.log_probs(logits, policy.mask_id, 1.0))

    def one_pass(number: Int[Array, ""]) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        before = jnp.full(rows, number - 1)
        state = likelihood.state_at(rollout.tokens, rollout.commit_call, before, policy.mask_id)
        suppressed = end_of_text.suppressed(rollout.commit_call >= number, settings.end)
        hidden = denoise(policy, params, prompts, state).hidden
        entropy = token_distribution.map_positions(entropy_of, settings.chunk, hidden, suppressed)
        return _bounds_of_call(number, entropy, rollout, settings)

    def no_bounds(number: Int[Array, ""]) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        zero = jnp.zeros(rows, rollout.logprob.dtype)
        return zero, zero + jnp.inf

    @jax.checkpoint
    def one_call(carry: None, number: Int[Array, ""]):
        return carry, jax.lax.cond(jnp.any(rollout.nfe >= number), one_pass, no_bounds, number)

    _, (lo, hi) = jax.lax.scan(one_call, None, _call_numbers(settings))
    return lo.T, hi.T


def recorded_bounds(
    rollout: Rollout, settings: SamplerSettings
) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
    """lo and hi of every call under θ_old, from the recorded entropies and without a pass."""
    rollout = _never_commit_filled(rollout)

    def one_call(number: Int[Array, ""]) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        return _bounds_of_call(number, rollout.entropy, rollout, settings)

    return jax.vmap(one_call, out_axes=1)(_call_numbers(settings))


def _bounds_of_call(
    number: Int[Array, ""],
    entropy: Float[Array, "B L"],
    rollout: Rollout,
    settings: SamplerSettings,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    chosen, open_ = rollout.commit_call == number, rollout.commit_call >= number
    allowed = open_ & commit.current_block(open_, settings.block_length, rollout.offset)
    lo, hi = bounds(entropy, chosen, jnp.all(chosen == allowed, axis=1))
    forced = (number == (settings.max_calls or 0)) & rollout.forced
    return jnp.where(forced, 0.0, lo), jnp.where(forced, jnp.inf, hi)


def _never_commit_filled(rollout: Rollout) -> Rollout:
    """The rollout with no call that commits the tokens filled in after the end of the text."""
    never = jnp.iinfo(jnp.int32).max
    return rollout._replace(commit_call=jnp.where(rollout.sampled, rollout.commit_call, never))


def _call_numbers(settings: SamplerSettings) -> Int[Array, "N"]:
    return jnp.arange(1, (settings.max_calls or settings.length) + 1, dtype=jnp.int32)


def log_selection(
    lo: Float[Array, "B N"],
    hi: Float[Array, "B N"],
    mu: Float[Array, "B"],
    sigma: Float[Array, "B"],
    scope: str,
) -> Float[Array, "B N"] | Float[Array, "B 1"]:
    """Log-probability of the sets: one term per call, or one for the whole row.

    Args:
      scope: "call" if γ was drawn at each call, which gives a product over calls; "prompt" if one γ
        must lie in the intervals of all calls.
    """
    if scope == "call":
        return log_interval(lo, hi, mu[:, None], sigma[:, None])
    lo, hi = jnp.max(lo, axis=1, keepdims=True), jnp.min(hi, axis=1, keepdims=True)
    return log_interval(lo, hi, mu[:, None], sigma[:, None])
