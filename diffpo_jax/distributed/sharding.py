"""Shardings of arrays, by a table of rules from paths to PartitionSpecs.

One table serves parameters and optimiser state, as the path of a moment ends in the parameter's
path. A path that no rule matches raises an error, so nothing is replicated by accident.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffpo_jax.arrays.paths import path_name
from diffpo_jax.system.errors import UserError

P = PartitionSpec

# The first match wins. Blocks are stacked: their leading axis is the layer.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    # Means of squares over rows and columns (Adafactor) are small, and replicated.
    (r"/v_(row|col)/", P()),
    (r"denoiser/embed$", P("tensor", "fsdp")),
    (r"denoiser/place$", P(None, "fsdp")),
    (r"denoiser/unembed$", P("fsdp", "tensor")),
    # A kernel, or the values of a quantised one and its scales, one per block of inputs.
    (r"denoiser/blocks/(q|k|v|gate|up)(/values|/scale)?$", P(None, "fsdp", "tensor")),
    (r"denoiser/blocks/(q|k|v)_bias$", P(None, "tensor")),
    (r"denoiser/blocks/(o|down)(/values|/scale)?$", P(None, "tensor", "fsdp")),
    (r"denoiser/blocks/(attn|ff|q|k)_norm/scale$", P()),
    (r"denoiser/norm/scale$", P()),
    # An adapter's factors are split like the kernel beside them, and not along the small rank. The
    # factor on the tensor side is split over fsdp too: otherwise every device would hold all of it
    # and of its moments.
    (r"adapter/blocks/(q|k|v|gate|up)_a$", P(None, "fsdp", None)),
    (r"adapter/blocks/(q|k|v|gate|up)_b$", P(None, None, ("tensor", "fsdp"))),
    (r"adapter/blocks/(o|down)_a$", P(None, ("tensor", "fsdp"), None)),
    (r"adapter/blocks/(o|down)_b$", P(None, None, "fsdp")),
    (r"(threshold|state_head)/", P()),
    # Counters and numbers of the state and of optimisers.
    (r"(^|/)(step|count|ns_coeffs|b1|weight_sum|step_count|max_lr)$", P()),
)

BATCH = P(("data", "fsdp"))  # sequences


def spec_for(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The spec of one leaf, by the rules.

    Raises:
      UserError: no rule matches, or an axis does not divide over its mesh axes.
    """
    spec = next((spec for pattern, spec in RULES if re.search(pattern, path)), None)
    if spec is None:
        raise UserError(
            f"no sharding rule matches {path} {shape}; add one to "
            "diffpo_jax/distributed/sharding.py."
        )
    if shape == (1,):  # Adafactor's placeholder for a moment that it does not keep
        return P()
    for axis, names in enumerate(spec):
        parts = math.prod(mesh.shape[n] for n in _names(names))
        if shape[axis] % parts:
            raise UserError(
                f"axis {axis} of {path} has size {shape[axis]}, which does not divide over "
                f"{parts} devices (mesh axes {', '.join(_names(names))}). Change config.mesh or "
                "the model's shape."
            )
    return spec


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The NamedShardings of a pytree of arrays or shapes, by the rules."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, spec_for(path_name(path), x.shape, mesh)), tree
    )


def abstract(tree: Any, mesh: Mesh) -> Any:
    """The shapes of a pytree, with shardings by the rules."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        tree,
        shardings(tree, mesh),
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its rows split over the data and fsdp axes."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is whole on every device."""
    return NamedSharding(mesh, P())


def place_batch(tree: Any, mesh: Mesh) -> Any:
    """Places host arrays [B ...] on all devices, split over the batch axes.

    Every process has the whole batch, which is small, and gives its own devices their rows.
    """
    sharding = batch_sharding(mesh)

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def to_host(tree: Any) -> Any:
    """Copies arrays on all devices to whole numpy arrays, on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def element_bytes(dtype: Any) -> float:
    """The bytes per element on a device, where two 4-bit numbers share one (not so in numpy)."""
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return 8.0  # threefry keys are two words
    return 0.5 if dtype == jnp.uint4 else float(np.dtype(dtype).itemsize)


class Leaf(NamedTuple):
    """An array of a pytree, and how a mesh holds it."""

    name: str
    shape: tuple[int, ...]
    spec: str  # of its sharding
    mib: float  # MiB on each device

    @property
    def size(self) -> int:
        """Numbers in the whole array."""
        return math.prod(self.shape)


def leaves(tree: Any, mesh: Mesh) -> list[Leaf]:
    """The arrays or shapes of a pytree in order."""
    result = []
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        spec = spec_for(path_name(path), x.shape, mesh)
        shard = NamedSharding(mesh, spec).shard_shape(x.shape)
        mib = math.prod(shard) * element_bytes(x.dtype) / 2**20
        result.append(Leaf(path_name(path), x.shape, str(spec), mib))
    return result


def table(parts: Sequence[Leaf]) -> str:
    """Formats a line for each array, and the sum."""
    rows = [f"  {x.name:44} {x.shape!s:20} {x.spec:40} {x.mib:10.3f}" for x in parts]
    return "\n".join([*rows, f"  {'MiB on each device':106} {sum(x.mib for x in parts):10.3f}"])


def _names(names: Any) -> tuple[str, ...]:
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)
