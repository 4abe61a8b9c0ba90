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
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.diffusion.thresholds import Threshold
from diffpo_jax.models.policy import Policy


class _Stream(NamedTuple):
    row: Int[Array, "slots"]  # row of the queue in each slot; Q, one past the end, if it is idle
    taken: Int[Array, ""]  # rows that have had a slot so far
    slots: unmask.Unmasking
    cache: unmask.Cache | None  # the slots' cache, if the sampler has one
    records: unmask.Unmasking  # [Q ...], written as rows finish


def stream(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    begun: unmask.Unmasking,
    threshold: Threshold | None,
    keys: Key[Array, "Q"],
    settings: SamplerSettings,
    slots: int,
) -> Rollout:
    """Finishes a completion for every prompt of the queue, `slots` rows at a time.

    Args:
      prompts: the queue, Q rows.
      begun: their rows, from `unmask.start` or after `unmask.first_call`.
      threshold: None if every row has its threshold from its first call.
      slots: rows in flight; at most Q are used.
    """
    queue = prompts.tokens.shape[0]
    slots = min(slots, queue)
    # 1. Queue the rows that are not done, those with most positions left first: they will mostly
    #    take the most calls, and should not come last, when slots are idle.
    left = jnp.sum(begun.commit_call == 0, axis=1)
    order, waiting = jnp.argsort(-left).astype(jnp.int32), jnp.sum(left > 0)

    def rows_at(tree, rows: Int[Array, "slots"]):
        return jax.tree.map(lambda x: x.at[rows].get(mode="clip"), tree)

    def queued(place: Int[Array, "slots"]) -> Int[Array, "slots"]:
        return jnp.where(place < waiting, order.at[place].get(mode="clip"), queue)

    first = jnp.arange(slots, dtype=jnp.int32)

    def body(s: _Stream) -> _Stream:
        # 2. Make one call in every slot.
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

        # 3. Write out the rows that are done.  The others, and idle slots, write to row Q, which is
        #    out of bounds and dropped.
        done = ~jnp.any(new.commit_call == 0, axis=1)
        target = jnp.where(done, s.row, queue)
        records = jax.tree.map(lambda x, y: x.at[target].set(y, mode="drop"), s.records, new)

        # 4. Give each free slot the next row, if there is one.
        row = jnp.where(done, queued(s.taken + jnp.cumsum(done) - 1), s.row)
        taken = jnp.minimum(s.taken + jnp.sum(done), queue)

        # 5. Begin it there.  A cache keeps its arrays; block -1 makes their rows due.
        renewed = done & (row < queue)
        fresh = rows_at(begun, row)
        rows = jax.tree.map(lambda x, y: jnp.where(_like(renewed, y), x, y), fresh, new)
        if cache is not None:
            cache = cache._replace(block=jnp.where(renewed, -1, cache.block))
        return _Stream(row, taken, rows, cache, records)

    def unfinished(s: _Stream) -> Array:
        return jnp.any(s.row < queue)

    rows = rows_at(begun, order[:slots])
    cache = unmask.make_cache(policy, params, rows_at(prompts, order[:slots]), rows, settings)
    start = _Stream(queued(first), jnp.asarray(slots, jnp.int32), rows, cache, begun)
    return unmask.record(jax.lax.while_loop(unfinished, body, start).records, settings)


def _like(mask: Bool[Array, "slots"], x: Shaped[Array, "slots ..."]) -> Bool[Array, "slots ..."]:
    return mask.reshape(mask.shape + (1,) * (x.ndim - 1))
