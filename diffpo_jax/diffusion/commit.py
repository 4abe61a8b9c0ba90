"""Commit rules: which masked positions a denoiser call commits.

A rule is a pure function of a call's `Readings` of the positions that may be committed, and of one
number per row, its dial: a bound, a number of calls or a probability.  It commits at least one
position of every row that has an open one, except that calls of the schedule "dream" may commit
none.  Ties go to the leftmost position.
"""

from collections.abc import Callable

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
    call: Int[Array, "B"],
) -> Bool[Array, "B L"]:
    """Positions that a rule commits.

    Args:
      open_: positions that may be committed, the masked ones of each row's current block.
      dial: γ in nats; the number of calls for a whole completion ("top_k", "random"); the smallest
        probability that is committed ("confidence").
      call: the number of each row's call, from 1; only the schedule "dream" reads it.
    """
    if rule.name == "entropy_bounded":
        return entropy_bounded(readings.entropy, readings.error, open_, dial)
    if rule.name == "entropy_sum":
        return entropy_sum(readings.entropy, readings.error, open_, dial)
    if rule.name in ("top_k", "random"):
        steps = dial * block_length / open_.shape[1]
        if rule.schedule == "dream":
            count = dream_count(open_, call, steps, rule.eps)
        elif rule.schedule == "even":
            count = transfer_count(open_, block_length, steps)
        else:
            raise ValueError(f"unknown schedule: {rule.schedule!r}")
        return top_k(readings.error, open_, count)
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
    Σ_U H − max_U H ≤ γ.  That is at least one position and, with entropy as the proxy, every
    position of exactly zero entropy.

    Args:
      entropy: H of the untempered distributions, nats.
      error: the proxy: H itself, −confidence or −margin.
      gamma: the bound, nats; inf commits all.
    """
    return _bounded_prefix(prefix_excess, entropy, error, open_, gamma)


def entropy_sum(
    entropy: Float[Array, "B L"],
    error: Float[Array, "B L"],
    open_: Bool[Array, "B L"],
    gamma: Float[Array, "B"],
) -> Bool[Array, "B L"]:
    """The largest prefix U with Σ_U H ≤ γ, or the first position if there is none (our choice).

    Where the entropy-bounded rule leaves out the largest entropy, so that it commits one position
    for free at any entropy, this rule counts all.  Arguments as there.
    """
    first = jnp.arange(entropy.shape[1]) == 0

    def cost(h: Float[Array, "B L"]) -> Float[Array, "B L"]:
        return jnp.where(first, 0.0, jnp.cumsum(h, axis=1))

    return _bounded_prefix(cost, entropy, error, open_, gamma)


def _bounded_prefix(
    cost: Callable[[Float[Array, "B L"]], Float[Array, "B L"]],
    entropy: Float[Array, "B L"],
    error: Float[Array, "B L"],
    open_: Bool[Array, "B L"],
    gamma: Float[Array, "B"],
) -> Bool[Array, "B L"]:
    """The positions whose prefix, in order of their error, costs γ or less.

    Args:
      cost: maps entropies in this order to the cost of each prefix, which does not fall.
    """
    # A diverged model gives NaN, which must not keep the loop over calls from ending: NaN entropies
    # are committed at once, and a NaN bound commits one position.
    entropy = jnp.where(jnp.isnan(entropy), 0.0, entropy)
    gamma = jnp.where(jnp.isnan(gamma), 0.0, gamma)
    order = by_error(error, open_)
    h = jnp.take_along_axis(jnp.where(open_, entropy, 0.0), order, axis=1)
    fits = cost(h) <= gamma[:, None]
    return jnp.take_along_axis(fits, _inverse(order), axis=1) & open_


def prefix_excess(h: Float[Array, "B L"]) -> Float[Array, "B L"]:
    """Σ − max of every prefix, for non-negative entropies in any order.

    Each new term adds min(h_i, max of those before it).  Nothing cancels in this sum: in float32 it
    is 0 exactly if the excess is 0, which a difference of sum and maximum does not ensure.
    """
    before = jnp.pad(jnp.maximum.accumulate(h, axis=1)[:, :-1], ((0, 0), (1, 0)))
    return jnp.cumsum(jnp.minimum(h, before), axis=1)


def top_k(
    error: Float[Array, "B L"], open_: Bool[Array, "B L"], count: Int[Array, "B"]
) -> Bool[Array, "B L"]:
    """The `count` open positions with the least error, or all if there are fewer."""
    return (_inverse(by_error(error, open_)) < count[:, None]) & open_


def transfer_count(
    open_: Bool[Array, "B L"], block_length: int, steps: Float[Array, "B"]
) -> Int[Array, "B"]:
    """Number of positions this call commits so that a block takes `steps` calls (LLaDA).

    With m = block_length, each call commits ⌊m / steps⌋ positions, and each of the first m mod
    steps calls one more.  The number of committed positions tells which call of the block it is.

    Args:
      open_: the masked positions of the block.
      steps: calls per block, a whole number.  Calls beyond m, which would commit nothing, are left
        out; less than 1 counts as 1.
    """
    calls = jnp.clip(jnp.nan_to_num(steps, nan=1.0), 1, block_length).astype(jnp.int32)
    least, more = block_length // calls, block_length % calls
    committed = block_length - jnp.sum(open_, axis=1)
    return least + (committed < more * (least + 1))


def dream_count(
    open_: Bool[Array, "B L"], call: Int[Array, "B"], steps: Float[Array, "B"], eps: float
) -> Int[Array, "B"]:
    """Number of positions this call commits on Dream's grid of times.

    The times t_0 = 1, ..., t_S = ε are evenly spaced.  Call i of a block, from 0, commits
    ⌊m (1 − t_{i+1} / t_i)⌋ of the m positions that are still masked, which may be none, and the
    last call commits them all.  So a block takes S calls exactly, whatever its length.

    Source: the `diffusion_generate` of Dream-org/Dream-v0-Instruct-7B, which has one block.

    Args:
      open_: the masked positions of the block.
      call: number of the row's call, from 1.
      steps: S, calls per block, a whole number; less than 1 counts as 1.
      eps: ε.
    """
    calls = jnp.clip(jnp.nan_to_num(steps, nan=1.0), 1, 2**30)
    calls = jnp.round(calls).astype(jnp.int32)
    # All blocks before this one took as many calls.
    i, left = (call - 1) % calls, jnp.sum(open_, axis=1)
    share = 1 - _dream_time(i + 1, calls, eps) / _dream_time(i, calls, eps)
    return jnp.where(i == calls - 1, left, jnp.floor(left * share).astype(left.dtype))


def _dream_time(i: Int[Array, "B"], calls: Int[Array, "B"], eps: float) -> Float[Array, "B"]:
    """t_i in float32, from the nearer end of the grid, as the published code computes it.

    Near whole numbers of positions rounding decides, and another formula commits one more or less.
    """
    step = (jnp.float32(eps) - 1) / calls
    return jnp.where(i < (calls + 1) // 2, 1 + step * i, eps - step * (calls - i))


def by_confidence(
    confidence: Float[Array, "B L"],
    open_: Bool[Array, "B L"],
    level: Float[Array, "B"],
    fallback: str,
) -> Bool[Array, "B L"]:
    """Every open position of at least this confidence (Fast-dLLM).

    Args:
      fallback: the position that is committed if no confidence reaches the level: the
        "most_confident", or the "leftmost", which keeps RL from teaching certainty (Fork-dLLM).
    """
    passes = open_ & (confidence >= level[:, None])
    if fallback == "leftmost":
        one = open_ & (jnp.cumsum(open_, axis=1) == 1)
    else:
        one = top_k(-confidence, open_, jnp.ones(open_.shape[0], jnp.int32))
    return jnp.where(jnp.any(passes, axis=1, keepdims=True), passes, one)


def current_block(
    open_: Bool[Array, "B L"], block_length: int, offset: Int[Array, "B"] | None = None
) -> Bool[Array, "B L"]:
    """Positions of each row's first block that is not full.

    Args:
      offset: prompt tokens in the first block; None for none.
    """
    offset = offset_column(offset)
    block = (jnp.arange(open_.shape[1]) + offset) // block_length
    first = (jnp.argmax(open_, axis=1, keepdims=True) + offset) // block_length
    return block == first


def offset_column(offset: Int[Array, "B"] | None) -> Int[Array, "#B 1"]:
    """Prompt tokens in each row's first block, beside arrays by position; 0 if None are given."""
    return jnp.zeros((1, 1), jnp.int32) if offset is None else offset[:, None]


def by_error(error: Float[Array, "B L"], open_: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    """Positions by error, ascending, with those that are not open at the end."""
    # NaN sorts first.  Infinite errors sort last, but before positions that are not open.
    most = jnp.finfo(error.dtype).max
    error = jnp.minimum(jnp.where(jnp.isnan(error), -most, error), most)
    return jnp.argsort(jnp.where(open_, error, jnp.inf), axis=1, stable=True)


def _inverse(order: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """The rank of each position in an order."""
    return jnp.argsort(order, axis=1)
