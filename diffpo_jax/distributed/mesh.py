"""The device mesh: the only place that makes one."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from diffpo_jax.config import MeshConfig
from diffpo_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of the first data·fsdp·tensor devices.

    Args:
      devices: those of a machine that is not this one; None: all that there are.

    Raises:
      UserError: fewer devices than that.
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
    # Auto: with the newer default, Explicit, flax.linen's layers do not trace.
    grid = np.asarray(devices[:needed]).reshape(shape)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
