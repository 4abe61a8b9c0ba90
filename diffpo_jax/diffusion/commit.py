"""Commit rules: which masked positions a denoiser call fixes.

A rule is a pure function of the statistics of the call and of what may be committed.  Ties are
broken by position, leftmost first.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def entropy_bounded(
    entropy: Float[Array, "B L"], open_: Bool[Array, "B L"], gamma: Float[Array, "B"]
) -> Bool[Array, "B L"]:
    """The entropy-bounded rule (EB sampler, arXiv 2505.24857).

    Orders the open positions by entropy, ascending, and commits the largest prefix U with
    Σ_U H − max_U H ≤ γ: at least one, and every position of exactly zero entropy.

    Args:
      entropy: nats, of the untempered distributions.
      open_: positions that may be committed; a row with none commits none.
      gamma: the bound, nats; inf commits all.
    """
    # A model that has diverged gives NaN.  It must not stop the loop over calls from ending: NaN
    # entropies are committed at once, a NaN bound commits one position.
    entropy = jnp.where(jnp.isnan(entropy), 0.0, entropy)
    gamma = jnp.where(jnp.isnan(gamma), 0.0, gamma)
    order = jnp.argsort(jnp.where(open_, entropy, jnp.inf), axis=1, stable=True)
    h = jnp.take_along_axis(jnp.where(open_, entropy, 0.0), order, axis=1)
    fits = prefix_excess(h) <= gamma[:, None]
    place = jnp.argsort(order, axis=1)  # the inverse permutation
    return jnp.take_along_axis(fits, place, axis=1) & open_


def prefix_excess(h: Float[Array, "B L"]) -> Float[Array, "B L"]:
    """Σ − max of every prefix, for non-negative entropies in any order.

    Each new term adds min(h_i, max of those before it).  Summed this way nothing cancels: the
    excess is exactly 0 only where it should be, which the difference of a sum and a maximum in
    float32 does not give.
    """
    before = jnp.pad(jnp.maximum.accumulate(h, axis=1)[:, :-1], ((0, 0), (1, 0)))
    return jnp.cumsum(jnp.minimum(h, before), axis=1)
