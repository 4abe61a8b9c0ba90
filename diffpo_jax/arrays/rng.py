"""Keys are derived, never threaded: randomness is a function of (seed, stream, step, row)."""

import jax
from jaxtyping import Array, Key

# One number for each use of randomness.  Never renumber: runs are repeatable by it.
STREAMS = {"init": 0, "pretrain": 1, "rollout": 2, "draws": 3, "evaluate": 4, "adapter": 5}


def key_for(seed: int, stream: str, step: int = 0) -> Key[Array, ""]:
    """The key of one use of randomness at one step."""
    key = jax.random.fold_in(jax.random.key(seed), STREAMS[stream])
    return jax.random.fold_in(key, step)


def row_keys(key: Key[Array, ""], rows: Array) -> Key[Array, "B"]:
    """One key a row, from the row's own number and never from the layout of the batch.

    Args:
      rows: Int[B], the rows' numbers (a rollout's place in the step, an example's index).
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
