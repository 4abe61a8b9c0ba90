"""The device mesh of a configuration, within one slice or over several."""

import collections
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from diffpo_jax.config import MeshConfig
from diffpo_jax.system.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh of the first data·fsdp·tensor devices, or of all devices of several slices.

    Slices are joined by the data-centre network, which is far slower than the links within a slice.
    Only the axis `data` spans slices, so that an update only sums gradients over this network.

    Args:
      devices: by default all devices that JAX finds.

    Raises:
      UserError: there are too few devices, or they are in another number of slices.
    """
    shape = tuple(getattr(config, axis) for axis in AXES)
    needed = math.prod(shape)
    devices = jax.devices() if devices is None else devices
    if needed > len(devices):
        raise UserError(
            f"config.mesh asks for {' x '.join(map(str, shape))} = {needed} devices "
            f"(data x fsdp x tensor); this machine has {len(devices)} "
            f"({devices[0].platform}). Lower config.mesh."
        )
    if jax.process_count() > 1 and needed < len(devices):
        raise UserError(
            f"config.mesh uses {needed} of {len(devices)} devices; with several processes "
            "data x fsdp x tensor must be all of them."
        )
    if config.slices > 1:
        grid = _multi_slice_grid(config, devices)
    else:
        grid = _single_slice_grid(shape, devices[:needed])
    # Auto, because flax.linen's layers do not trace with the newer default, Explicit.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _single_slice_grid(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    slices = {getattr(device, "slice_index", 0) for device in devices}
    # GPUs count each host as a slice, but the network between them needs no axis of its own.
    if len(slices) > 1 and devices[0].platform == "tpu":
        raise UserError(
            f"config.mesh.slices=1, but the devices are of {len(slices)} slices. Set "
            f"--config.mesh.slices={len(slices)}, and config.mesh.data to a multiple of it."
        )
    return np.asarray(devices).reshape(shape)


def _multi_slice_grid(config: MeshConfig, devices: Sequence[Any]) -> np.ndarray:
    if not hasattr(devices[0], "slice_index"):
        raise UserError(
            f"config.mesh.slices={config.slices}, but these devices ({devices[0].platform}) have "
            "no slices. Set it to 1."
        )
    sizes = collections.Counter(device.slice_index for device in devices)
    if len(sizes) != config.slices:
        raise UserError(
            f"config.mesh.slices={config.slices}, but the devices are of {len(sizes)} "
            f"slice{'s' * (len(sizes) > 1)}. Set --config.mesh.slices={len(sizes)}."
        )
    within = (config.data // config.slices, config.fsdp, config.tensor)
    if set(sizes.values()) != {math.prod(within)}:
        raise UserError(
            f"config.mesh lays data {within[0]} x fsdp {within[1]} x tensor {within[2]} = "
            f"{math.prod(within)} devices over each of {config.slices} slices; they have "
            f"{', '.join(str(sizes[index]) for index in sorted(sizes))}."
        )
    return mesh_utils.create_hybrid_device_mesh(
        within, (config.slices, 1, 1), devices, allow_split_physical_axes=True
    )
