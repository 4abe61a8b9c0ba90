"""Commit rules: which masked positions a denoiser call fixes.

A rule is a pure function of what a call says of the positions that may be committed (`Readings`)
and of one number a row, its dial: a bound, a number of calls, a probability.  At least one
position is committed where one is open.  Ties are broken by position, leftmost first.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.diffusion.settings import Rule
from diffpo_jax.diffusion.token_distribution import Readings


def choose(
    rule: Rule,
    readings: Readings,
    open_: Bool[Array, "B L"],
    dial: Float[Array, "B"],
    block_length: int,
) -> Bool[Array, "B L"]:
    """The positions that a rule commits.

    Args:
      open_: what may be committed: the masked positions of each row's current block.
      dial: γ in nats; the calls a whole completion takes ("top_k", "random"); the probability
        from which a position is committed ("confidence").
    """
    if rule.name == "entropy_bounded":
        return entropy_bounded(readings.entropy, readings.error, open_, dial)
    if rule.name in ("top_k", "random"):
        steps = dial * block_length / open_.shape[1]
        return top_k(readings.error, open_, transfer_count(open_, block_length, steps))
    if rule.name == "confidence":
        return by_confidence(-readings.error, open_, dial, rule.fallback)
    raise ValueError(f"unknown rule: {rule.name!r}")


def entropy_bounded(
    entropy: Float[Array, "B L"],
    error: Float[Array, "B L"],
    open_: Bool[Array, "B L"],
    gamma: Float[Array, "B"],
) -> Bool[Array, "B L"]:
    """The entropy-bounded rule (EB sampler, arXiv 2505.24857).

    Orders the open positions by an error proxy, ascending, and commits the largest prefix U with
    Σ_U H − max_U H ≤ γ: at least one, and with entropy as the proxy every position of exactly
    zero entropy.

    Args:
      entropy: H, nats, of the untempered distributions.
      error: the proxy; H itself, or −confidence, or −margin.
      gamma: the bound, nats; inf commits all.
    """
    # A model that has diverged gives NaN.  It must not stop the loop over calls from ending: NaN
    # entropies are committed at once, a NaN bound commits one position.
    entropy = jnp.where(jnp.isnan(entropy), 0.0, entropy)
    gamma = jnp.where(jnp.isnan(gamma), 0.0, gamma)
    order = _order(error, open_)
    h = jnp.take_along_axis(jnp.where(open_, entropy, 0.0), order, axis=1)
    fits = prefix_excess(h) <= gamma[:, None]
    return jnp.take_along_axis(fits, _inverse(order), axis=1) & open_


def prefix_excess(h: Float[Array, "B L"]) -> Float[Array, "B L"]:
    """Σ − max of every prefix, for non-negative entropies in any order.

    Each new term adds min(h_i, max of those before it).  Summed this way nothing cancels: the
    excess is exactly 0 only where it should be, which the difference of a sum and a maximum in
    float32 does not give.
    """
    before = jnp.pad(jnp.maximum.accumulate(h, axis=1)[:, :-1], ((0, 0), (1, 0)))
    return jnp.cumsum(jnp.minimum(h, before), axis=1)


def top_k(
    error: Float[Array, "B L"], open_: Bool[Array, "B L"], count: Int[Array, "B"]
) -> Bool[Array, "B L"]:
    """The `count` open positions of least error, or all if there are fewer."""
    return (_inverse(_order(error, open_)) < count[:, None]) & open_


def transfer_count(
    open_: Bool[Array, "B L"], block_length: int, steps: Float[Array, "B"]
) -> Int[Array, "B"]:
    """How many positions this call commits so that a block takes `steps` calls (LLaDA).

    With m = block_length: ⌊m / steps⌋ a call, and one more in each of the first m mod steps.
    Which call of the block it is follows from how many of its positions are committed.

    Args:
      open_: the masked positions of the block.
      steps: calls a block, a whole number; of more than m the calls that would commit nothing
        are left out, and fewer than 1 count as 1.
    """
    calls = jnp.clip(jnp.nan_to_num(steps, nan=1.0), 1, block_length).astype(jnp.int32)
    least, more = block_length // calls, block_length % calls
    committed = block_length - jnp.sum(open_, axis=1)
    return least + (committed < more * (least + 1))


def by_confidence(
    confidence: Float[Array, "B L"],
    open_: Bool[Array, "B L"],
    level: Float[Array, "B"],
    fallback: str,
) -> Bool[Array, "B L"]:
    """Every open position of at least this confidence (Fast-dLLM).

    Args:
      fallback: what is committed where none is: the "most_confident" open position, or the
        "leftmost", which keeps RL from teaching certainty (Fork-dLLM).
    """
    passes = open_ & (confidence >= level[:, None])
    if fallback == "leftmost":
        one = open_ & (jnp.cumsum(open_, axis=1) == 1)
    else:
        one = top_k(-confidence, open_, jnp.ones(open_.shape[0], jnp.int32))
    return jnp.where(jnp.any(passes, axis=1, keepdims=True), passes, one)


def current_block(open_: Bool[Array, "B L"], block_length: int) -> Bool[Array, "B L"]:
    """Positions of the row's first block that is not full; rows move on by themselves."""
    block = jnp.arange(open_.shape[1]) // block_length
    first = jnp.argmax(open_, axis=1) // block_length
    return block[None, :] == first[:, None]


def _order(error: Float[Array, "B L"], open_: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    """Positions by error, ascending, what is not open at the end."""
    # NaN first; inf, of what is to come last, still before what is not open.
    most = jnp.finfo(error.dtype).max
    error = jnp.minimum(jnp.where(jnp.isnan(error), -most, error), most)
    return jnp.argsort(jnp.where(open_, error, jnp.inf), axis=1, stable=True)


def _inverse(order: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """The place of each position in an order."""
    return jnp.argsort(order, axis=1)
