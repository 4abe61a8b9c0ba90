"""Splitting a batch into micro-batches, and adding up their results."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def split(tree: Any, size: int) -> Any:
    """Reshapes every leaf from [B ...] to [B/size size ...]; `size` divides B.

    Of M micro-batches, number m takes the rows m, m + M, m + 2M, …, so that each micro-batch is
    spread over all the devices that share the batch.
    """
    return jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(size, x.shape[0] // size, *x.shape[1:]), 0, 1), tree
    )


def merge(x: Array) -> Array:
    """The inverse of `split`: [M size ...] -> [B ...]."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def fold(tree: Any, size: int) -> Any:
    """Reshapes every leaf from [B ...] to [B/size size ...]: neighbouring rows stay together."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // size, size, *x.shape[1:]), tree)


def unfold(tree: Any) -> Any:
    """The inverse of `fold`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def accumulate(function: Callable[[Any], Any], batch: Any, size: int | None) -> Any:
    """Sum of function(micro-batch) over all micro-batches.

    Args:
      function: maps a batch to a pytree of sums (gradients of sums, metrics as (sum, count)).
      size: rows of a micro-batch; None for all at once.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    if not size or size == rows:
        return function(batch)
    parts = split(batch, size)
    first = jax.tree.map(lambda x: x[0], parts)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first))

    def add(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    return jax.lax.scan(add, zero, parts)[0]


def map_rows(function: Callable[[Any], Any], tree: Any, size: int | None) -> Any:
    """function(rows) for `size` rows of every leaf at a time, put together again.

    Args:
      function: maps leaves [b ...] to leaves [b ...].
      size: b, which need not divide the number of rows; None for all at once.
    """
    rows = jax.tree.leaves(tree)[0].shape[0]
    if not size or size >= rows:
        return function(tree)
    if rows % size:  # the last piece is filled up with the last row
        index = jnp.minimum(jnp.arange(-(-rows // size) * size), rows - 1)
        tree = jax.tree.map(lambda x: x[index], tree)
    results = unfold(jax.lax.map(function, fold(tree, size)))
    return jax.tree.map(lambda x: x[:rows], results)


def rows_together(group: int, batches: Sequence[int], devices: int) -> int:
    """Consecutive rows of a group that no split separates: the largest number that divides it.

    Args:
      batches: numbers of rows, each of which the devices share evenly.
    """
    sizes = (n for n in range(1, group + 1) if group % n == 0)
    return max((n for n in sizes if all(b % (n * devices) == 0 for b in batches)), default=1)


def group_similar(key: Int[Array, "B"], size: int) -> Int[Array, "B"]:
    """Order of rows in which `split` puts rows with similar keys into the same micro-batch."""
    return jnp.argsort(key).reshape(-1, size).T.reshape(-1)
