"""Sums and means over the marked entries of an array, in at least float32."""

import jax.numpy as jnp
from jaxtyping import Array


def masked_sum(x: Array, mask: Array, axis: int | None = None) -> Array:
    """Sum of `x` over the entries marked in `mask`; the others may be NaN or infinite."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.sum(jnp.where(mask, x.astype(dtype), 0), axis=axis)


def masked_mean(x: Array, mask: Array, axis: int | None = None) -> Array:
    """Mean of `x` over the entries marked in `mask`; 0 if none is marked."""
    count = jnp.sum(mask, axis=axis)
    return masked_sum(x, mask, axis) / jnp.maximum(count, 1)


def pair(x: Array, mask: Array) -> tuple[Array, Array]:
    """The metric (sum, count) of `x` over the entries marked in `mask`."""
    return masked_sum(x, mask), jnp.sum(mask)
