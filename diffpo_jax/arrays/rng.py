"""Random keys, derived from (seed, stream, step, row) and never passed on from use to use."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

# One number for each use of randomness.  Never renumber: runs are repeatable by these numbers.
STREAMS = {
    "init": 0,
    "pretrain": 1,
    "rollout": 2,
    "draws": 3,
    "evaluate": 4,
    "adapter": 5,
    "state_head": 6,
    "head_update": 8,
    "headroom": 9,
}


def key_for(seed: int | Int[Array, ""], stream: str, step: int = 0) -> Key[Array, ""]:
    """The key of one use of randomness at one step."""
    key = jax.random.fold_in(jax.random.key(seed), STREAMS[stream])
    return jax.random.fold_in(key, step)


def row_keys(key: Key[Array, ""], rows: Int[Array, "B"]) -> Key[Array, "B"]:
    """One key per row, derived from the row's own number, whatever the layout of the batch.

    Args:
      rows: the rows' numbers (a rollout's place in the step, an example's index).
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)


def fold_in_rows(keys: Key[Array, "B"], numbers: Int[Array, "*B"] | int) -> Key[Array, "B"]:
    """Folds a number into the key of each row: one for all rows, or each row's own."""
    numbers = jnp.broadcast_to(jnp.asarray(numbers, jnp.int32), keys.shape)
    return jax.vmap(jax.random.fold_in)(keys, numbers)
