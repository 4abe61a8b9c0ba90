"""The device mesh: the only place that makes one."""

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
    """A mesh of the first data·fsdp·tensor devices, or of all devices of several slices.

    Slices are joined by the data-centre network, which is far slower than what joins the devices
    within one.  Only `data` goes over it: of an update the gradients are summed there.

    Args:
      devices: those of a machine that is not this one; None: all that there are.

    Raises:
      UserError: fewer devices than that, or not in so many slices.
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
    grid = _of_slices(config, devices) if config.slices > 1 else _of_one(shape, devices[:needed])
    # Auto: with the newer default, Explicit, flax.linen's layers do not trace.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _of_one(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    slices = {getattr(device, "slice_index", 0) for device in devices}
    # GPUs count each host as a slice; theirs is another network, and no matter here.
    if len(slices) > 1 and devices[0].platform == "tpu":
        raise UserError(
            f"config.mesh.slices=1, but the devices are of {len(slices)} slices. Set "
            f"--config.mesh.slices={len(slices)}, and config.mesh.data to a multiple of it."
        )
    return np.asarray(devices).reshape(shape)


def _of_slices(config: MeshConfig, devices: Sequence[Any]) -> np.ndarray:
    if not hasattr(devices[0], "slice_index"):
        raise UserError(
            f"config.mesh.slices={config.slices}, but these devices ({devices[0].platform}) know "
            "of no slices. Set it to 1."
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
