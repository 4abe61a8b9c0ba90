"""Denoiser calls that reuse keys and values of positions that are not worked on.

Attention is bidirectional: every token that is committed changes the keys and values of all
positions, the prompt's too.  A cache therefore holds what a whole pass gave, its refresh, and
goes stale until the next.  Kinds:

  prompt  each call runs over the completion, the prompt's keys and values are cached;
  dual    each call runs over the row's current block, all others are cached (Fast-dLLM's prefix
          and suffix caches at once).

A row is refreshed when it enters a block, and after `refresh_every` calls; at 1 every call is
exact.  Its refreshes depend on that row alone: rows do not see each other's.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.arrays.types import Params, Prompts
from diffpo_jax.diffusion import denoise
from diffpo_jax.diffusion.settings import CacheSettings
from diffpo_jax.models.policy import Policy


class Cache(NamedTuple):
    """What is kept of each row between its calls."""

    kv: Any  # of every layer and position, from `Policy.hidden_and_kv`: [layers B ...]
    hidden: Float[Array, "B L D"]  # that predict the completion's positions
    features: Float[Array, "B D"]
    block: Int[Array, "B"]  # that it was refreshed in; -1: not yet
    calls: Int[Array, "B"]  # since then


def empty_cache(
    policy: Policy, params: Params, prompts: Prompts, completion: Int[Array, "B L"]
) -> Cache:
    """A cache of nothing: every row is due."""
    out, kv = jax.eval_shape(
        lambda p: denoise.denoise_with_kv(policy, p, prompts, completion), params
    )
    zeros = lambda x: jnp.zeros(x.shape, x.dtype)  # noqa: E731
    rows = completion.shape[0]
    return Cache(
        kv=jax.tree.map(zeros, kv),
        hidden=zeros(out.hidden),
        features=zeros(out.features),
        block=jnp.full(rows, -1, jnp.int32),
        calls=jnp.zeros(rows, jnp.int32),
    )


def denoise_cached(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    completion: Int[Array, "B L"],
    cache: Cache,
    block: Int[Array, "B"],
    due: Bool[Array, "B"],
    settings: CacheSettings,
    block_length: int,
) -> tuple[denoise.Denoised, Cache]:
    """One call: refreshes the rows that are due, then runs every row over its span.

    Args:
      block: the row's current block.
      due: rows to refresh, from `is_due`.

    Returns:
      Hidden states of the completion, of which those outside the span are of the last refresh;
      and the cache to give to the next call.
    """
    cache = _refresh(policy, params, prompts, completion, cache, block, due, settings)
    prompt_length, length = prompts.tokens.shape[1], completion.shape[1]
    whole = settings.kind == "prompt"
    span = length if whole else block_length
    first = jnp.zeros_like(block) if whole else block * block_length
    # Where an output predicts the next position, the position before the span counts to it.
    start = prompt_length + first - policy.logit_shift
    tokens, mask = denoise.join(prompts, completion)
    hidden = policy.hidden_within(params, cache.kv, tokens, mask, start, span + policy.logit_shift)[
        :, :span
    ]
    put = jax.vmap(lambda all_, new, at: jax.lax.dynamic_update_slice_in_dim(all_, new, at, 0))
    cache = cache._replace(hidden=put(cache.hidden, hidden, first), calls=cache.calls + 1)
    return denoise.Denoised(cache.hidden, cache.features), cache


def is_due(
    cache: Cache, block: Int[Array, "B"], working: Bool[Array, "B"], settings: CacheSettings
) -> Bool[Array, "B"]:
    """Rows that enter a block or have used their cache long enough."""
    stale = cache.block != block
    if settings.refresh_every:
        stale |= cache.calls >= settings.refresh_every
    return stale & working


def _refresh(policy, params, prompts, completion, cache, block, due, settings) -> Cache:
    rows = due.shape[0]
    size = min(settings.refresh_rows or rows, rows)

    def some(carry: tuple[Bool[Array, "B"], Cache]) -> tuple[Bool[Array, "B"], Cache]:
        waiting, cache = carry
        pick = jnp.nonzero(waiting, size=size, fill_value=rows)[0]
        take = lambda x: x.at[pick].get(mode="clip")  # noqa: E731
        out, kv = denoise.denoise_with_kv(
            policy, params, jax.tree.map(take, prompts), take(completion)
        )
        new = Cache(kv, out.hidden, out.features, take(block), jnp.zeros(size, jnp.int32))
        return waiting.at[pick].set(False, mode="drop"), _put(cache, new, pick)

    def all_(cache: Cache) -> Cache:
        out, kv = denoise.denoise_with_kv(policy, params, prompts, completion)
        return select(due, Cache(kv, out.hidden, out.features, block, jnp.zeros_like(block)), cache)

    if size == rows:
        # No loop: its body would not change from pass to pass, and XLA would move the pass out
        # of it and make it every time.
        return jax.lax.cond(jnp.any(due), all_, lambda cache: cache, cache)
    _, cache = jax.lax.while_loop(lambda carry: jnp.any(carry[0]), some, (due, cache))
    return cache


def select(rows: Bool[Array, "B"], new: Cache, old: Cache) -> Cache:
    """`new` in these rows, `old` in the others."""

    def along(axis: int):
        def one(a: Array, b: Array) -> Array:
            shape = [1] * a.ndim
            shape[axis] = -1
            return jnp.where(rows.reshape(shape), a, b)

        return one

    kv = jax.tree.map(along(1), new.kv, old.kv)
    return Cache(kv, *jax.tree.map(along(0), new[1:], old[1:]))


def _put(cache: Cache, new: Cache, rows: Int[Array, "r"]) -> Cache:
    kv = jax.tree.map(lambda a, b: a.at[:, rows].set(b, mode="drop"), cache.kv, new.kv)
    rest = [a.at[rows].set(b, mode="drop") for a, b in zip(cache[1:], new[1:])]
    return Cache(kv, *rest)
