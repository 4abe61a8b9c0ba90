"""Devices by name, there or not: "v5e:4x4" is a TPU slice, "cpu:8" or "gpu:8" this machine's."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from diffpo_jax.config import MeshConfig
from diffpo_jax.distributed.chips import CHIPS, Chip
from diffpo_jax.system.errors import UserError

_FORMS = (
    f"{', '.join(f'{kind}:4x4' for kind in CHIPS)} (three numbers for v4 and v5p), cpu:8, gpu:8"
)


class Topology(NamedTuple):
    """Where programs are compiled for."""

    name: str
    devices: Sequence[Any]
    chip: Chip | None  # None: no figures of it are known
    limit: float | None  # bytes that a program may take of a device's memory, where it is known


def prepare(name: str) -> None:
    """Settings that must be made before jax looks for devices.

    Raises:
      UserError: the name has no such form.
    """
    kind, _ = _parts(name)
    if kind != "gpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if kind in CHIPS:
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else libtpu asks the cloud, and waits
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # there is no TPU to share
        os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def has_libtpu() -> bool:
    """Whether TPU's compiler is installed."""
    return importlib.util.find_spec("libtpu") is not None


def find(name: str, slices: int = 1) -> Topology:
    """The devices of a topology.

    Args:
      slices: how many of that slice, joined by the data-centre network.

    Raises:
      UserError: no such topology, no libtpu, or fewer devices than that on this machine.
    """
    kind, sizes = _parts(name)
    count = math.prod(sizes)
    if kind not in CHIPS:
        return _local(name, kind, count)
    from jax.experimental import topologies

    if not has_libtpu():
        raise UserError(
            f"--topology={name} needs TPU's compiler, libtpu, which is not installed: "
            "pip install 'jax[tpu]' (no TPU is needed)."
        )
    chip, shape = CHIPS[kind], name
    options: dict[str, Any] = {"chip_config_name": "megacore"} if chip.megacore else {}
    if count == 1:  # else libtpu lays out whole hosts, of four chips
        options["chips_per_host_bounds"] = [1, 1, 1]
    if slices > 1:
        options["num_slices"] = slices
        name = f"{slices} of {name}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=shape, **options).devices
    except Exception as error:  # libtpu's and jax's own, of several kinds
        said = str(error).strip().splitlines()[0]
        raise UserError(f"--topology={shape}: libtpu knows no such slice ({said}).") from error
    return Topology(name, found, chip, chip.hbm_gib * 2**30)


def make_mesh(config: MeshConfig, topology: Topology) -> Any:
    """The mesh of all devices.

    Raises:
      UserError: their number is not that of config.mesh.
    """
    from diffpo_jax.distributed import mesh

    sizes = [getattr(config, axis) for axis in mesh.AXES]
    there = len(topology.devices)
    if math.prod(sizes) != there:
        rest = config.data * config.tensor
        hint = f" For example --config.mesh.fsdp={there // rest}." if there % rest == 0 else ""
        raise UserError(
            f"config.mesh is {' x '.join(map(str, sizes))} = {math.prod(sizes)} devices "
            f"(data x fsdp x tensor), but --topology={topology.name} has {there}.{hint}"
        )
    return mesh.make_mesh(config, topology.devices)


def _parts(name: str) -> tuple[str, list[int]]:
    found = re.fullmatch(r"([a-z]+\d*[a-z]*):(\d+(?:x\d+)*)", name)
    if not found or found[1] not in (*CHIPS, "cpu", "gpu"):
        raise UserError(f"--topology={name} is unknown; it has the form of {_FORMS}.")
    kind, sizes = found[1], [int(n) for n in found[2].split("x")]
    axes = CHIPS[kind].axes if kind in CHIPS else 1
    if len(sizes) != axes:
        raise UserError(
            f"--topology={name}: {kind} is given by {axes} number{'s' * (axes > 1)}, as in "
            f"{_FORMS}."
        )
    return kind, sizes


def _local(name: str, kind: str, count: int) -> Topology:
    import jax

    if kind == "cpu":
        _ask_for_cpus(count)
    try:
        found = jax.devices(kind)
    except RuntimeError as error:
        raise UserError(f"--topology={name}: this machine has no {kind.upper()}.") from error
    if len(found) < count:
        raise UserError(f"--topology={name}: this machine has {len(found)} {kind.upper()} devices.")
    stats = found[0].memory_stats() or {}
    return Topology(name, found[:count], None, stats.get("bytes_limit"))


def _ask_for_cpus(count: int) -> None:
    import jax

    # Both say how many virtual devices there are, and only before the first is used.
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:  # too late: what is there must do
            return
