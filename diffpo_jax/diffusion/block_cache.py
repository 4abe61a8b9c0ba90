"""Denoiser calls of block-causal models, with the keys and values of what is written.

A position sees its own block and those before it, so the keys and values of a finished block never
change.  A call computes the row's current block alone.  When a row enters a block, the one that it
has left is computed once more, as it was written, and kept: unlike the caches of `kv_cache`, this
one is exact.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.arrays.types import Params, Prompts
from diffpo_jax.diffusion import blocks, denoise, kv_cache
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.models.policy import Policy


class Cache(NamedTuple):
    """What is kept of each row between its calls."""

    kv: Any  # all layers' keys and values, [layers B ...], right up to the current block
    features: Float[Array, "B D"]
    before: Float[Array, "B D"]  # hidden states at the last position before the current block
    block: Int[Array, "B"]  # the current block, of the frame of `blocks`; -1 before the first call


def empty_cache(policy: Policy, params: Params, prompts: Prompts, length: int) -> Cache:
    """A cache of zeros, whose rows have not begun."""
    rows = prompts.tokens.shape[0]
    completion = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    out, kv = jax.eval_shape(
        lambda p, z: denoise.denoise_with_kv(policy, p, prompts, z), params, completion
    )
    before = jax.ShapeDtypeStruct((rows, out.hidden.shape[2]), out.hidden.dtype)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (kv, out.features, before))
    return Cache(*zeros, block=jnp.full(rows, -1, jnp.int32))


def denoise_cached(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    completion: Int[Array, "B L"],
    open_: Bool[Array, "B L"],
    cache: Cache,
    working: Bool[Array, "B"],
    settings: SamplerSettings,
) -> tuple[denoise.Denoised, Cache]:
    """Makes one call, on every row's current block.

    Args:
      open_: masked positions.
      working: rows that have some.

    Returns:
      Hidden states of the completion, zeros outside the block; and the cache for the next call.
    """
    size, length, most = policy.attention_block, settings.length, settings.cache.refresh_rows
    offset = blocks.offsets(policy, prompts)
    block = (jnp.argmax(open_, axis=1).astype(jnp.int32) + offset) // size
    tokens, _ = denoise.join(prompts, completion)
    rows = (prompts, tokens)

    # 1. Begin rows: the prompt, with the first block's masks, which share a block with its end.
    def begin(cache: Cache, rows: tuple[Prompts, Array]) -> Cache:
        prompts, tokens = rows
        masks = tokens[:, prompts.tokens.shape[1] :][:, : min(size, length)]
        out, kv = denoise.denoise_with_kv(policy, params, prompts, masks)
        put = lambda all_, new: all_.at[:, :, :, : new.shape[3]].set(new)  # noqa: E731
        kv = jax.tree.map(put, cache.kv, kv)
        # Read only with shifted logits, where this is the prompt's last position.
        return Cache(kv, out.features, out.hidden[:, 0], jnp.zeros_like(cache.block))

    cache = kv_cache.renew_rows(begin, cache, rows, working & (cache.block < 0), most)

    # 2. Keep the blocks that rows have left.
    def keep(cache: Cache, rows: tuple[Prompts, Array]) -> Cache:
        prompts, tokens = rows
        here = blocks.places(policy, prompts, length, cache.block, 1)
        clean = jnp.take_along_axis(tokens, here.columns, axis=1)
        arrays = (cache.kv, clean, here.positions, here.sees)
        hidden, own = policy.hidden_and_kv_beside(params, *arrays)

        def put(all_: Array, new: Array) -> Array:
            write = jax.vmap(
                lambda x, part, at: jax.lax.dynamic_update_slice_in_dim(x, part, at, axis=2),
                in_axes=(1, 1, 0),
                out_axes=1,
            )
            return write(all_, new, here.columns[:, 0])

        kv = jax.tree.map(put, cache.kv, own)
        return cache._replace(kv=kv, before=hidden[:, -1], block=cache.block + 1)

    cache = kv_cache.renew_rows(keep, cache, rows, working & (cache.block < block), most)

    # 3. The current block.
    here = blocks.places(policy, prompts, length, block, 1)
    state = jnp.take_along_axis(tokens, here.columns, axis=1)
    hidden = policy.hidden_beside(params, cache.kv, state, here.positions, here.sees)
    if policy.logit_shift:
        hidden = blocks.shift_right(hidden[:, None], cache.before[:, None])[:, 0]
    place = jnp.arange(length) + offset[:, None] - block[:, None] * size
    inside = (place >= 0) & (place < size)
    spread = jnp.take_along_axis(hidden, jnp.clip(place, 0, size - 1)[..., None], axis=1)
    return denoise.Denoised(jnp.where(inside[..., None], spread, 0), cache.features), cache
