"""Anchor schedules: the intermediate states that a surrogate conditions on (method.md, section 3).

Anchors are calls 0 = τ_0 ≤ τ_1 ≤ …; equal anchors have no tokens between them and act as one.  An
anchor must be a stopping time: decided by what has been committed so far, never by N, the total
number of calls, which is known only at the end.  With anchors at fractions of N the surrogate would
not be a distribution (its enumerated sums were 0.5 to 1.6).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def draw_anchors(
    key: Key[Array, ""],
    commit_call: Int[Array, "B L"],
    nfe: Int[Array, "B"],
    count: int,
    schedule: str = "uniform",
) -> Int[Array, "B K"]:
    """Returns τ_0 = 0 and K − 1 later anchors of each row.

    Three schedules count committed tokens: for numbers u in (0, 1), τ is the first call by which at
    least u·L positions are committed, a stopping time.

      uniform     each row draws its own u ~ U(0, 1)
      stratified  one u in each of K − 1 equal parts of (0, 1)
      even        u = j/K, without randomness

    Two schedules count calls:

      batch       K − 1 integers from 1..L−1, the same for all rows: stopping times too.  Tokens of
                  a row that is done sooner are scored from the prompt or an earlier anchor
      calls       u_j·N of each row's own N, with u as in "uniform": the paper's wording, kept to
                  reproduce it.  Not a stopping time

    Args:
      nfe: N of each row; only "calls" reads it.
      count: K.

    Raises:
      ValueError: the schedule is unknown.
    """
    batch, length = commit_call.shape
    shape, later = (batch, count - 1), count - 1
    if schedule == "batch":
        calls = jnp.sort(jax.random.randint(key, (later,), 1, max(length, 2)))
        anchors = jnp.broadcast_to(calls, shape)
    elif schedule == "calls":
        u = jnp.sort(jax.random.uniform(key, shape), axis=1)
        anchors = jnp.floor(u * nfe[:, None])
    else:
        anchors = first_call_with(commit_call, _shares(key, shape, schedule))
    zero = jnp.zeros((batch, 1), commit_call.dtype)
    return jnp.concatenate([zero, anchors.astype(commit_call.dtype)], axis=1)


def first_call_with(
    commit_call: Int[Array, "B L"], share: Float[Array, "B K"]
) -> Int[Array, "B K"]:
    """First call by which at least this share of the positions is committed."""
    length = commit_call.shape[1]
    order = jnp.sort(commit_call, axis=1)  # entry m: the call that committed the m-th token
    place = jnp.clip(jnp.ceil(share * length).astype(jnp.int32) - 1, 0, length - 1)
    return jnp.take_along_axis(order, place, axis=1)


def every_call(batch: int, most: int, shrink: int = 1) -> Int[Array, "B K"]:
    """All calls as anchors: the exact likelihood of rollouts of at most `most` calls.

    Args:
      shrink: above 1, only the first of every `shrink` calls is an anchor, and the others are
        scored there (TraceRL, arXiv 2509.06949).  As fixed numbers, anchors are stopping times.
    """
    calls = jnp.arange(0, most, shrink, dtype=jnp.int32)
    return jnp.broadcast_to(calls, (batch, calls.size))


def draw_calls(
    key: Key[Array, ""], commit_call: Int[Array, "B L"], nfe: Int[Array, "B"], count: int
) -> tuple[Int[Array, "B R"], Float[Array, "B L"]]:
    """Draws R calls of each rollout, for an unbiased estimate of the exact sum over its tokens.

    One call is drawn uniformly in each of R equal parts of the N calls, and its tokens weigh N/R.
    Weights add up if two parts give the same call, so that every call is expected to count once.

    Returns:
      The states before those calls, as anchors; and the weight of each token, 0 if its call was not
      drawn.  Tokens of weight 0 are not scored.
    """
    u = jax.random.uniform(key, (nfe.shape[0], count))
    place = (jnp.arange(count) + u) / count
    before = jnp.floor(place * nfe[:, None]).astype(jnp.int32)
    before = jnp.minimum(before, nfe[:, None] - 1)  # u may round up to 1
    drawn = jnp.sum(before[:, None, :] == commit_call[:, :, None] - 1, axis=-1)
    return before, drawn * (nfe[:, None] / count)


def _shares(key: Key[Array, ""], shape: tuple[int, int], schedule: str) -> Float[Array, "B K"]:
    batch, later = shape
    if schedule == "uniform":
        return jnp.sort(jax.random.uniform(key, shape), axis=1)
    if schedule == "stratified":
        return (jnp.arange(later) + jax.random.uniform(key, shape)) / max(later, 1)
    if schedule == "even":
        share = jnp.arange(1, later + 1, dtype=jnp.float32) / (later + 1)
        return jnp.broadcast_to(share, (batch, later))
    raise ValueError(f"unknown schedule of anchors: {schedule!r}")
