"""Denoiser calls that reuse the keys and values of positions they do not compute.

Attention is bidirectional: every committed token changes the keys and values of all positions, the
prompt's too.  A cache therefore holds those of one whole pass, its refresh, and is stale until the
next one.  Kinds:

  prompt  each call computes the completion; the prompt's keys and values are cached
  dual    each call computes the row's current block; all others are cached (Fast-dLLM's prefix and
          suffix caches at once)

A row is refreshed when it enters a block and, if `refresh_every` is set, after so many calls; at 1
every call is exact.  A row's refreshes depend only on that row.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.arrays.types import Params, Prompts
from diffpo_jax.diffusion import denoise
from diffpo_jax.diffusion.settings import CacheSettings, SamplerSettings
from diffpo_jax.models.policy import Policy

C = TypeVar("C", bound=tuple)  # a cache


class Cache(NamedTuple):
    """What is kept of each row between its calls."""

    kv: Any  # all layers' keys and values, from `Policy.hidden_and_kv`: [layers B ...]
    hidden: Float[Array, "B L D"]  # hidden states that predict the completion's positions
    features: Float[Array, "B D"]
    block: Int[Array, "B"]  # the block of the last refresh; -1 before the first
    calls: Int[Array, "B"]  # calls since the last refresh


def empty_cache(
    policy: Policy, params: Params, prompts: Prompts, completion: Int[Array, "B L"]
) -> Cache:
    """A cache of zeros, of which every row is due for a refresh."""
    out, kv = jax.eval_shape(
        lambda p: denoise.denoise_with_kv(policy, p, prompts, completion), params
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (kv, out.hidden, out.features))
    rows = completion.shape[0]
    return Cache(*zeros, block=jnp.full(rows, -1, jnp.int32), calls=jnp.zeros(rows, jnp.int32))


def denoise_cached(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    completion: Int[Array, "B L"],
    cache: Cache,
    block: Int[Array, "B"],
    due: Bool[Array, "B"],
    settings: SamplerSettings,
) -> tuple[denoise.Denoised, Cache]:
    """Makes one call: refreshes the rows that are due, then computes every row's span.

    Args:
      block: each row's current block.
      due: rows to refresh, from `is_due`.

    Returns:
      Hidden states of the completion, those outside the span from the last refresh; and the cache
      for the next call.
    """
    cache = _refresh(policy, params, prompts, completion, cache, block, due, settings.cache)
    prompt_length, length = prompts.tokens.shape[1], completion.shape[1]
    whole = settings.cache.kind == "prompt"
    span = length if whole else settings.block_length
    first = jnp.zeros_like(block) if whole else block * settings.block_length
    # If outputs predict the next position, the span begins one position earlier.
    start = prompt_length + first - policy.logit_shift
    tokens, mask = denoise.join(prompts, completion)
    hidden = policy.hidden_within(params, cache.kv, tokens, mask, start, span + policy.logit_shift)
    put = jax.vmap(lambda x, new, at: jax.lax.dynamic_update_slice_in_dim(x, new, at, 0))
    hidden = put(cache.hidden, hidden[:, :span], first)
    cache = cache._replace(hidden=hidden, calls=cache.calls + 1)
    return denoise.Denoised(cache.hidden, cache.features), cache


def is_due(
    cache: Cache, block: Int[Array, "B"], working: Bool[Array, "B"], settings: CacheSettings
) -> Bool[Array, "B"]:
    """Rows that enter a block, or have used their cache for as many calls as the settings allow."""
    stale = cache.block != block
    if settings.refresh_every:
        stale |= cache.calls >= settings.refresh_every
    return stale & working


def _refresh(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    completion: Int[Array, "B L"],
    cache: Cache,
    block: Int[Array, "B"],
    due: Bool[Array, "B"],
    settings: CacheSettings,
) -> Cache:
    def renew(cache: Cache, rows: tuple[Prompts, Array, Array]) -> Cache:
        prompts, completion, block = rows
        out, kv = denoise.denoise_with_kv(policy, params, prompts, completion)
        return Cache(kv, out.hidden, out.features, block, jnp.zeros_like(block))

    return renew_rows(renew, cache, (prompts, completion, block), due, settings.refresh_rows)


def renew_rows(
    renew: Callable[[C, Any], C], cache: C, rows: Any, due: Bool[Array, "B"], most: int | None
) -> C:
    """Computes a cache anew in the rows that are due.

    Args:
      renew: (cache, rows) -> cache, for any number of rows.
      cache: a tuple of the keys and values, whose rows are on axis 1, and of arrays by row.
      rows: arrays by row.
      most: rows at a time, so that it costs only what the due rows cost; None for all whenever one
        is due.
    """
    count = due.shape[0]
    size = min(most or count, count)

    def on_axes(one: Callable[..., Array], *caches: C) -> C:
        kv = jax.tree.map(functools.partial(one, 1), *(c[0] for c in caches))
        return type(cache)(kv, *map(functools.partial(one, 0), *(c[1:] for c in caches)))

    def renew_some(carry: tuple[Bool[Array, "B"], C]) -> tuple[Bool[Array, "B"], C]:
        waiting, cache = carry
        picked = jnp.nonzero(waiting, size=size, fill_value=count)[0]
        some = jax.tree.map(lambda x: x.at[picked].get(mode="clip"), rows)
        old = on_axes(lambda axis, x: jnp.take(x, picked, axis=axis, mode="clip"), cache)

        def put(axis: int, x: Array, new: Array) -> Array:
            return x.at[(slice(None),) * axis + (picked,)].set(new, mode="drop")

        cache = on_axes(put, cache, renew(old, some))
        return waiting.at[picked].set(False, mode="drop"), cache

    def renew_all(cache: C) -> C:
        def select(axis: int, x: Array, new: Array) -> Array:
            return jnp.where(due.reshape([-1 if i == axis else 1 for i in range(x.ndim)]), new, x)

        return on_axes(select, cache, renew(cache, rows))

    if size == count:
        # No loop: its body would not change from pass to pass, and XLA would move the pass out
        # of it and make it every time.
        return jax.lax.cond(jnp.any(due), renew_all, lambda cache: cache, cache)
    _, cache = jax.lax.while_loop(lambda carry: jnp.any(carry[0]), renew_some, (due, cache))
    return cache
