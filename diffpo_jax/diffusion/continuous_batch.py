"""Continuous batching: a queue of prompts longer than the batch, inside one jitted loop.

Sequences need different numbers of calls, and a static batch waits for its slowest.  Here a fixed
number of slots works through the queue: a slot whose row is done writes its record out and takes
the next prompt, with no return to Python.  Each row comes out as from `unmask`, because its
completion depends only on its prompt and its key.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, Shaped

from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.diffusion import unmask
from diffpo_jax.diffusion.kv_cache import Cache
from diffpo_jax.diffusion.settings import CacheSettings, SamplerSettings
from diffpo_jax.diffusion.thresholds import Threshold
from diffpo_jax.models.policy import Policy


class _Stream(NamedTuple):
    row: Int[Array, "slots"]  # row of the queue in each slot; Q, one past the end, if it is idle
    taken: Int[Array, ""]  # rows of the queue taken so far
    slots: unmask.Unmasking
    cache: Cache | None  # the slots' cache, if the sampler has one
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
      prompts: the queue, Q rows; the loop is fastest if the longest rows come first.
      slots: rows in flight; at most Q are used.
    """
    queue = prompts.tokens.shape[0]
    slots = min(slots, queue)

    def rows_at(tree, rows: Int[Array, "slots"]):
        return jax.tree.map(lambda x: x.at[rows].get(mode="clip"), tree)

    first = jnp.arange(slots, dtype=jnp.int32)
    blank, empty = unmask.start(policy, params, rows_at(prompts, first), settings)

    def body(s: _Stream) -> _Stream:
        # 1. Make one call in every slot.
        new, cache = unmask.call(
            policy,
            params,
            rows_at(prompts, s.row),
            s.slots,
            s.cache,
            threshold,
            rows_at(keys, s.row),
            settings,
        )

        # 2. Write out the rows that are done.  The others, and idle slots, write to row Q, which is
        #    out of bounds and dropped.
        done = ~jnp.any(new.commit_call == 0, axis=1)
        target = jnp.where(done, s.row, queue)
        records = jax.tree.map(lambda x, y: x.at[target].set(y, mode="drop"), s.records, new)

        # 3. Give each free slot the next prompt, if there is one.
        order = s.taken + jnp.cumsum(done) - 1
        row = jnp.where(done, jnp.minimum(order, queue), s.row)
        taken = jnp.minimum(s.taken + jnp.sum(done), queue)

        # 4. Blank these slots.  A cache keeps its arrays; block -1 makes their rows due.
        renewed = done & (row < queue)
        rows = jax.tree.map(lambda x, y: jnp.where(_like(renewed, y), x, y), blank, new)
        if cache is not None:
            cache = cache._replace(block=jnp.where(renewed, -1, cache.block))
        return _Stream(row, taken, rows, cache, records)

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


def _like(mask: Bool[Array, "slots"], x: Shaped[Array, "slots ..."]) -> Bool[Array, "slots ..."]:
    return mask.reshape(mask.shape + (1,) * (x.ndim - 1))
