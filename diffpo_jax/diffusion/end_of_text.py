"""End-of-text tokens: where a completion ends, and where such a token may be drawn."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.arrays.types import Rollout
from diffpo_jax.diffusion.settings import EndOfText


def suppressed(open_: Bool[Array, "B L"], end: EndOfText) -> Bool[Array, "B L"]:
    """Positions where the sampler may not draw an end in this state.

    Args:
      open_: the masked positions of the state.
    """
    if end.suppress == "never":
        return jnp.ones(open_.shape, bool)
    if end.suppress == "while_open":
        before = jnp.cumsum(open_, axis=1) - open_
        return before > 0
    return jnp.zeros(open_.shape, bool)


def suppressed_at_commit(rollout: Rollout, end: EndOfText) -> Bool[Array, "B L"]:
    """Positions whose token was drawn in a state that let no end be drawn there.

    A surrogate scores a token from an earlier state, in which more is masked, but suppresses ends
    only where the sampler did: like the set that a call commits, this is taken as recorded.
    """
    commit_call, sampled = rollout.commit_call, rollout.sampled
    before = jnp.maximum.accumulate(commit_call, axis=1)[:, :-1]
    before = jnp.pad(before, ((0, 0), (1, 0)))  # the latest call of all positions to the left
    if end.suppress == "never":
        return sampled
    if end.suppress == "while_open":
        return sampled & (before >= commit_call)
    return jnp.zeros(commit_call.shape, bool)


def mask_end_logits(
    logits: Float[Array, "*N V"], suppressed: Bool[Array, "*N"], end: EndOfText
) -> Float[Array, "*N V"]:
    """Logits with -inf at the ids of `end`, at the suppressed positions."""
    if not end.ids or end.suppress not in ("never", "while_open"):
        return logits
    masked = suppressed[..., None] & is_end(jnp.arange(logits.shape[-1]), end)
    return jnp.where(masked, -jnp.inf, logits)


def is_end(tokens: Int[Array, "*N"], end: EndOfText) -> Bool[Array, "*N"]:
    """Which tokens end a text."""
    return jnp.isin(tokens, jnp.asarray(end.ids or (-1,)))


def up_to_end(tokens: Int[Array, "B L"], end: EndOfText) -> Bool[Array, "B L"]:
    """Positions up to and including the first end of the text."""
    ends = is_end(tokens, end)
    return jnp.cumsum(ends, axis=1) - ends == 0


def is_finished(
    tokens: Int[Array, "B L"], committed: Bool[Array, "B L"], end: EndOfText
) -> Bool[Array, "B"]:
    """Rows in which an end and everything before it are committed."""
    up_to_here = jnp.cumsum(~committed, axis=1) == 0
    return jnp.any(up_to_here & is_end(tokens, end), axis=1)
