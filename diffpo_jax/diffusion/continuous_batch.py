"""Continuous batching: a queue of prompts longer than the batch, inside one jitted loop.

Sequences need different numbers of calls, and a static batch waits for its slowest.  Here a
fixed number of slots works through the queue: a slot whose row is done writes its record out and
takes the next prompt, with no return to Python.  Row by row the result is that of `unmask`: a
row's completion depends on its prompt and its key alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.diffusion import unmask
from diffpo_jax.diffusion.kv_cache import Cache
from diffpo_jax.diffusion.settings import CacheSettings, SamplerSettings
from diffpo_jax.diffusion.thresholds import Threshold
from diffpo_jax.models.policy import Policy


class _Stream(NamedTuple):
    row: Int[Array, "slots"]  # the queue's row in each slot; Q (one past the end): idle
    taken: Int[Array, ""]  # rows of the queue taken so far
    slots: unmask.Unmasking
    cache: Cache | None  # of the slots
    records: unmask.Unmasking  # [Q ...], written as rows finish


def stream(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    threshold: Threshold,
    keys: Key[Array, "Q"],
    settings: SamplerSettings,
    slots: int,
) -> Rollout:
    """Writes a completion for every prompt of the queue, `slots` rows at a time.

    Args:
      prompts: the queue, Q rows; the longest-running rows are best put first.
      slots: rows in flight; at most Q are used.
    """
    queue = prompts.tokens.shape[0]
    slots = min(slots, queue)

    def at(tree, rows: Int[Array, "slots"]):
        return jax.tree.map(lambda x: x.at[rows].get(mode="clip"), tree)

    first = jnp.arange(slots, dtype=jnp.int32)
    blank, empty = unmask.start(policy, params, at(prompts, first), settings)

    def body(s: _Stream) -> _Stream:
        now, cache = unmask.call(
            policy,
            params,
            at(prompts, s.row),
            s.slots,
            s.cache,
            threshold,
            at(keys, s.row),
            settings,
        )
        done = ~jnp.any(now.commit_call == 0, axis=1)
        finished = jnp.where(done, s.row, queue)
        # Rows still at work and idle slots write to row Q, which is out of bounds: dropped.
        records = jax.tree.map(
            lambda all_, one: all_.at[finished].set(one, mode="drop"), s.records, now
        )
        order = s.taken + jnp.cumsum(done) - 1
        row = jnp.where(done, jnp.minimum(order, queue), s.row)
        renewed = done & (row < queue)
        fresh = jax.tree.map(lambda new, old: jnp.where(_like(renewed, old), new, old), blank, now)
        if cache is not None:  # its arrays stay; the row is due for a refresh
            cache = cache._replace(block=jnp.where(renewed, -1, cache.block))
        taken = jnp.minimum(s.taken + jnp.sum(done), queue)
        return _Stream(row, taken, fresh, cache, records)

    def unfinished(s: _Stream) -> Array:
        return jnp.any(s.row < queue)

    begin = _Stream(
        row=first,
        taken=jnp.asarray(slots, jnp.int32),
        slots=blank,
        cache=empty,
        records=unmask.start(policy, params, prompts, settings._replace(cache=CacheSettings()))[0],
    )
    return unmask.record(jax.lax.while_loop(unfinished, body, begin).records)


def _like(mask: Array, x: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (x.ndim - 1))
