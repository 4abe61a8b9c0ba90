"""End of text: where a completion is over, and where its token may stand."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from diffpo_jax.diffusion.settings import EndOfText


def suppressed(open_: Bool[Array, "B L"], end: EndOfText) -> Bool[Array, "B L"]:
    """Positions whose distribution lacks the ids, in a state of the sampler.

    Args:
      open_: the masked positions of the state.
    """
    if end.suppress == "never":
        return jnp.ones(open_.shape, bool)
    if end.suppress == "while_open":
        before = jnp.cumsum(open_, axis=1) - open_
        return before > 0
    return jnp.zeros(open_.shape, bool)


def suppressed_at_commit(
    commit_call: Int[Array, "B L"], sampled: Bool[Array, "B L"], end: EndOfText
) -> Bool[Array, "B L"]:
    """The same for finished rollouts: of each position, in the state it was drawn from.

    A surrogate looks at a token from an earlier state, where more is masked, but removes what
    the sampler removed: like the set of positions a call commits, that is taken as it was.
    """
    before = jnp.maximum.accumulate(commit_call, axis=1)[:, :-1]
    before = jnp.pad(before, ((0, 0), (1, 0)))  # the latest call of all positions to the left
    if end.suppress == "never":
        return sampled
    if end.suppress == "while_open":
        return sampled & (before >= commit_call)
    return jnp.zeros(commit_call.shape, bool)


def mask_end_logits(logits: Array, gone: Array, end: EndOfText) -> Array:
    """Logits [... V] with -inf at the ids where `gone` [...]."""
    if not end.ids or end.suppress not in ("never", "while_open"):
        return logits
    return jnp.where(gone[..., None] & is_end(jnp.arange(logits.shape[-1]), end), -jnp.inf, logits)


def is_end(tokens: Int[Array, "*N"], end: EndOfText) -> Bool[Array, "*N"]:
    """Which tokens end a text."""
    return jnp.isin(tokens, jnp.asarray(end.ids or (-1,)))


def up_to_end(tokens: Int[Array, "B L"], end: EndOfText) -> Bool[Array, "B L"]:
    """Positions up to the first end of the text, that one included."""
    ends = is_end(tokens, end)
    return jnp.cumsum(ends, axis=1) - ends == 0


def is_finished(
    tokens: Int[Array, "B L"], committed: Bool[Array, "B L"], end: EndOfText
) -> Bool[Array, "B"]:
    """Rows in which an end is committed and so is everything before it."""
    solid = jnp.cumsum(~committed, axis=1) == 0
    return jnp.any(solid & is_end(tokens, end), axis=1)
