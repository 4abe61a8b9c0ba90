"""Sums of the bit patterns in a pytree, and a hash of them."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

from diffpo_jax.arrays.paths import path_name


def fingerprint(tree: Any) -> str:
    """A hexadecimal hash of the values in a tree; the same on every mesh."""
    named = bit_sums(tree)
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest() if named else ""


def bit_sums(tree: Any) -> dict[str, int]:
    """The sum of the bit patterns of each array by its path, modulo 2^32.

    It is exact in any order, so the same on every mesh, and no single changed bit leaves it as it
    was.
    """
    return {path_name(k): int(x) for k, x in jax.tree_util.tree_leaves_with_path(_sums(tree))}


@jax.jit
def _sums(tree: Any) -> Any:
    def total(x: jax.Array) -> jax.Array:
        if x.dtype in (jnp.uint4, jnp.bool):
            x = x.astype(jnp.uint8)
        width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        return jnp.sum(jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32))

    return jax.tree.map(total, tree)
