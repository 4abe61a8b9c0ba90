"""Splitting a batch into micro-batches and adding up what they give."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def split(tree: Any, size: int) -> Any:
    """[B ...] -> [B/size size ...] in every leaf; `size` divides B.

    Micro-batch m takes rows m, m + M, m + 2M, …, so that each is spread over all the devices
    that share the batch.
    """
    return jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(size, x.shape[0] // size, *x.shape[1:]), 0, 1), tree
    )


def merge(x: Array) -> Array:
    """[M size ...] -> [B ...]: the inverse of `split`."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def accumulate(function: Callable[[Any], Any], batch: Any, size: int) -> Any:
    """Sum of function(micro-batch) over micro-batches of `size` rows; 0: all rows at once.

    Args:
      function: batch -> pytree of sums (gradients of sums, metrics as (sum, count)).
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    if size in (0, rows):
        return function(batch)
    parts = split(batch, size)
    first = jax.tree.map(lambda x: x[0], parts)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first))

    def body(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    return jax.lax.scan(body, zero, parts)[0]


def group_similar(key: Int[Array, "B"], size: int) -> Int[Array, "B"]:
    """An order of the rows in which `split` puts rows with neighbouring keys together.

    For work that every row of a micro-batch does as often as the row with most of it.
    """
    return jnp.argsort(key).reshape(-1, size).T.reshape(-1)
