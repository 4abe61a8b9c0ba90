"""Devices by name, present or not.

"v5e:4x4" is a TPU slice and "t4:1" an NVIDIA GPU, for which programs are compiled by their
compilers without such a device; "cpu:8" and "gpu:8" are this machine's.
"""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from diffpo_jax.config import MeshConfig
from diffpo_jax.distributed import chips
from diffpo_jax.distributed.chips import CHIPS, GPUS
from diffpo_jax.planning import gpu_target
from diffpo_jax.system.errors import UserError

_FORMS = (
    f"{', '.join(f'{kind}:4x4' for kind in CHIPS)} (three numbers for v4 and v5p), "
    f"{', '.join(f'{kind}:1' for kind in GPUS)}, cpu:8, gpu:8"
)
_INSTALL = "pip install 'jax[cuda12]', or the extra .[cuda] of this package (no GPU is needed)"


class Topology(NamedTuple):
    """The devices that programs are compiled for."""

    name: str
    devices: Sequence[Any]
    limit: float | None  # bytes of each device that a program may take; None if not known
    share: float | None = None  # of a GPU's memory that this is; None for other devices


def prepare(name: str) -> None:
    """Sets what JAX reads when it first looks for devices.

    Raises:
      UserError: the name is not of a known form.
    """
    kind, _ = _parse(name)
    if kind != "gpu" and not os.environ.get("JAX_PLATFORMS"):
        import jax

        # The variable is read when jax is imported, which is done already.
        jax.config.update("jax_platforms", "cpu")
    if kind in CHIPS:
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu asks the cloud, and waits
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
      slices: how many such slices, joined by the data-centre network.

    Raises:
      UserError: there is no such topology, libtpu is not installed, or this machine has too few
        devices.
    """
    kind, sizes = _parse(name)
    count = math.prod(sizes)
    if kind == "cpu":
        _request_cpus(count)
    chips.check_devices()
    if kind in GPUS:
        return _gpus(name, kind, count)
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
    if count == 1:  # by default libtpu lays out whole hosts, of four chips
        options["chips_per_host_bounds"] = [1, 1, 1]
    if slices > 1:
        options["num_slices"] = slices
        name = f"{slices} of {name}"
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=shape, **options)
    except Exception as error:  # several types, from libtpu and jax
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--topology={shape}: libtpu knows no such slice ({reason}).") from error
    return Topology(name, description.devices, chip.hbm_gib * 2**30)


def make_mesh(config: MeshConfig, topology: Topology) -> Any:
    """The mesh of all devices of a topology.

    Raises:
      UserError: config.mesh has another number of devices.
    """
    from diffpo_jax.distributed import mesh

    sizes = [getattr(config, axis) for axis in mesh.AXES]
    count = len(topology.devices)
    if math.prod(sizes) != count:
        rest = config.data * config.tensor
        hint = f" For example --config.mesh.fsdp={count // rest}." if count % rest == 0 else ""
        raise UserError(
            f"config.mesh is {' x '.join(map(str, sizes))} = {math.prod(sizes)} devices "
            f"(data x fsdp x tensor), but --topology={topology.name} has {count}.{hint}"
        )
    return mesh.make_mesh(config, topology.devices)


def _parse(name: str) -> tuple[str, list[int]]:
    """The kind and the sizes in a topology's name."""
    match = re.fullmatch(r"([a-z]+\d*[a-z]*(?:-\d+)?):(\d+(?:x\d+)*)", name)
    if not match or match[1] not in (*CHIPS, *GPUS, "cpu", "gpu"):
        raise UserError(f"--topology={name} is unknown; the forms are {_FORMS}.")
    kind, sizes = match[1], [int(n) for n in match[2].split("x")]
    axes = CHIPS[kind].axes if kind in CHIPS else 1
    if len(sizes) != axes:
        raise UserError(
            f"--topology={name}: {kind} takes {axes} number{'s' * (axes > 1)}, as in {_FORMS}."
        )
    return kind, sizes


def _gpus(name: str, kind: str, count: int) -> Topology:
    from jax.experimental import topologies

    gpu = GPUS[kind]
    try:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=gpu_target.describe(gpu), topology=f"1x1x{count}"
        )
    except Exception as error:  # a plugin that is not installed is an error of several types
        raise UserError(
            f"--topology={name} needs XLA's compiler for GPUs, which is not installed: {_INSTALL}."
        ) from error
    share = gpu_target.pool_share()
    return Topology(name, found.devices, share * gpu.gib * 2**30, share)


def _local(name: str, kind: str, count: int) -> Topology:
    import jax

    try:
        devices = jax.devices(kind)
    except RuntimeError as error:
        raise UserError(f"--topology={name}: this machine has no {kind.upper()}.") from error
    if len(devices) < count:
        raise UserError(
            f"--topology={name}: this machine has {len(devices)} {kind.upper()} devices."
        )
    stats = devices[0].memory_stats() or {}
    return Topology(name, devices[:count], stats.get("bytes_limit"))


def _request_cpus(count: int) -> None:
    """Asks JAX for so many virtual CPU devices, unless XLA_FLAGS already sets their number."""
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:  # JAX has found its devices already, and their number is fixed
            return
