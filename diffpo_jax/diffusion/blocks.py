"""Block-causal models: blocks of a completion, and noisy blocks beside their clean row.

In a block diffusion model (BD3LM, arXiv 2503.09573) a position sees its own block and those before
it.  Once a block is written, nothing that comes later changes its keys and values.  So a block in
any of its states can be computed beside the clean row: it sees the row's earlier blocks and itself.
The sampler does so for the block that it writes, the scorer for all blocks of a rollout at once.

The frame of a completion is its blocks, n of c positions: [B n c], or flat [B n·c].  Where blocks
are counted from the prompt's first token, the first of them begins with the prompt's last tokens,
`offset` of them; the last may reach beyond the completion.

Where logits predict the next position, a block's first token is predicted at the last position of
the block before, which is finished: from the clean row, whatever the block's own state.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.diffusion import denoise
from diffpo_jax.models.policy import Policy


class Places(NamedTuple):
    """Where tokens beside a row stand, and what they see; q tokens, S positions of the row."""

    columns: Int[Array, "B q"]  # of the row
    positions: Int[Array, "B q"]  # in the text, as the network counts them
    sees: Bool[Array, "B q Sq"]  # the row's positions, then each other


def offsets(policy: Policy, prompts: Prompts) -> Int[Array, "B"]:
    """Prompt tokens in the completion's first block."""
    if policy.attention_block is None or policy.attention_origin == "completion":
        return jnp.zeros(prompts.tokens.shape[0], jnp.int32)
    return jnp.sum(prompts.mask, axis=1, dtype=jnp.int32) % policy.attention_block


def count(policy: Policy, length: int) -> int:
    """n, blocks of the frame of a completion of this length."""
    size = policy.attention_block
    spare = size - 1 if policy.attention_origin == "prompt" else 0
    return -(-(length + spare) // size)


def fold(
    policy: Policy, x: Shaped[Array, "B L"], offset: Int[Array, "B"], fill: Any
) -> Shaped[Array, "B n c"]:
    """A completion's array as blocks, with `fill` at places that are not of the completion."""
    size, length = policy.attention_block, x.shape[1]
    blocks = count(policy, length)
    place = jnp.arange(blocks * size) - offset[:, None]
    inside = (place >= 0) & (place < length)
    frame = jnp.take_along_axis(x, jnp.clip(place, 0, length - 1), axis=1)
    return jnp.where(inside, frame, fill).reshape(-1, blocks, size)


def unfold(
    frame: Shaped[Array, "B n c ..."], offset: Int[Array, "B"], length: int
) -> Shaped[Array, "B L ..."]:
    """The completion's part of an array of blocks."""
    flat = frame.reshape(frame.shape[0], -1, *frame.shape[3:])
    place = jnp.arange(length) + offset[:, None]
    place = place.reshape(*place.shape, *(1,) * (flat.ndim - 2))
    return jnp.take_along_axis(flat, place, axis=1)


def calls_in_block(
    policy: Policy, rollout: Rollout, offset: Int[Array, "B"]
) -> Int[Array, "B n c"]:
    """The call that committed each position, counted from 1 within its block.

    0 at places that are not of the completion, as if they had been there from the start.  Blocks
    are written one after another, so a block's calls follow the last one of those before it.
    """
    commit_call = fold(policy, rollout.commit_call, offset, 0)
    sampled = fold(policy, rollout.sampled, offset, False)
    last = jnp.max(jnp.where(sampled, commit_call, 0), axis=2)
    before = jnp.maximum.accumulate(last, axis=1)[:, :-1]
    before = jnp.pad(before, ((0, 0), (1, 0)))[:, :, None]
    return jnp.maximum(commit_call - before, 0)


def by_position(
    values: Shaped[Array, "B n K"], size: int, offset: Int[Array, "B"], length: int
) -> Shaped[Array, "B L K"]:
    """Each position's share of values by block.

    Args:
      size: c.
    """
    frame = jnp.repeat(values[:, :, None], size, axis=2)
    return unfold(frame, offset, length)


def places(
    policy: Policy, prompts: Prompts, length: int, first: Int[Array, "B"], blocks: int
) -> Places:
    """The places of some blocks of each row's frame, each of which sees what is before it.

    Args:
      length: L.
      first: each row's first block, from 0.
      blocks: how many.
    """
    size, prompt_length = policy.attention_block, prompts.tokens.shape[1]
    total, offset = prompt_length + length, offsets(policy, prompts)
    frame = first[:, None] * size + jnp.arange(blocks * size)
    columns = prompt_length - offset[:, None] + frame
    inside = columns < total
    # 1. Of the row: real tokens of earlier blocks, those of the prompt among them.
    row = (jnp.arange(total) - prompt_length + offset[:, None]) // size
    mask = jnp.concatenate([prompts.mask, jnp.ones((frame.shape[0], length), bool)], axis=1)
    earlier = mask[:, None, :] & (row[:, None, :] < (frame // size)[:, :, None])
    # 2. Of each other: the same block.  Places beyond the row are seen by none, but themselves, so
    #    that every softmax has a key.
    same = (frame // size)[:, None, :] == (frame // size)[:, :, None]
    own = same & (inside[:, None, :] | jnp.eye(frame.shape[1], dtype=bool))
    real = jnp.sum(prompts.mask, axis=1)[:, None]
    positions = jnp.clip(real - offset[:, None] + frame, 0, total - 1)
    columns = jnp.minimum(columns, total - 1)
    return Places(columns, positions, jnp.concatenate([earlier, own], axis=2))


def shift_right(
    hidden: Float[Array, "B n c D"], before: Float[Array, "B n D"]
) -> Float[Array, "B n c D"]:
    """Hidden states that predict a block's positions, where outputs predict the next position.

    Args:
      hidden: of the block's positions.
      before: of the last position before it.
    """
    return jnp.concatenate([before[:, :, None], hidden[:, :, :-1]], axis=2)


def denoise_beside(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    clean: tuple[denoise.Denoised, Any],
    state: Int[Array, "B L"],
) -> Float[Array, "B L D"]:
    """Hidden states that predict every position, its block in this state, those before it clean.

    Args:
      clean: the clean row, from `denoise.denoise_with_kv`.
    """
    length, offset = state.shape[1], offsets(policy, prompts)
    row, kv = clean
    blocks = count(policy, length)
    here = places(policy, prompts, length, jnp.zeros_like(offset), blocks)
    tokens, _ = denoise.join(prompts, state)
    tokens = jnp.take_along_axis(tokens, here.columns, axis=1)
    hidden = policy.hidden_beside(params, kv, tokens, here.positions, here.sees)
    hidden = hidden.reshape(hidden.shape[0], blocks, -1, hidden.shape[2])
    if not policy.logit_shift:
        return unfold(hidden, offset, length)
    # Those of the clean row are already one position to the left, as `Denoised` says.
    first = (jnp.arange(length) + offset[:, None]) % policy.attention_block == 0
    within = unfold(shift_right(hidden, hidden[:, :, 0]), offset, length)
    return jnp.where(first[:, :, None], row.hidden, within)
