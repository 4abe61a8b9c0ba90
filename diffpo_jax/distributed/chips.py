"""Published peak FLOP/s and memory of accelerators, and the platform to compile for."""

import os
from typing import Any, NamedTuple

import jax

from diffpo_jax.system.errors import UserError


class Chip(NamedTuple):
    """A TPU chip."""

    flops: float  # peak bfloat16 FLOP/s, which no program reaches
    hbm_gib: float  # available to a program
    axes: int  # dimensions of the torus or mesh that its slices are cut from
    megacore: bool = False  # whether its two cores become one device only if requested


# FLOP/s: the tables "System architecture" of the Google Cloud TPU documentation, a page for each
# version (cloud.google.com/tpu/docs/v4, v5e, v5p, v6e). HBM there is 32, 16, 95 and 32 GiB; the
# figures here are what libtpu 0.0.42 calls available when it refuses a program.
CHIPS = {
    "v4": Chip(275e12, 30.75, 3, megacore=True),
    "v5e": Chip(197e12, 15.75, 2),
    "v5p": Chip(459e12, 95.74, 3),
    "v6e": Chip(918e12, 31.25, 2),
}

# By the prefix of JAX's device kind; longer names come before shorter ones. GPUs:
# bfloat16 without sparsity, from NVIDIA's data sheets of A100, H100 and H200; those of H100 and
# H200 state twice as much, with sparsity.
_PEAKS = {
    "TPU v4 lite": None,  # made for inference; its peak is not in those tables
    "TPU v4": CHIPS["v4"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "TPU v6e": CHIPS["v6e"].flops,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": 989e12,
}


def check_devices() -> None:
    """Makes JAX look for its devices, after `hosts.initialize` if there are several processes.

    Raises:
      UserError: it finds none, for example because JAX_PLATFORMS asks for others.
    """
    try:
        jax.devices()
    except Exception as error:  # an AssertionError without a text if CUDA is not installed
        asked = os.environ.get("JAX_PLATFORMS")
        wanted = f" for JAX_PLATFORMS={asked}" if asked else ""
        reason = str(error).partition("\n")[0] or "it is not installed"
        raise UserError(
            f"JAX finds no devices{wanted}: {reason}. Leave JAX_PLATFORMS out to use what there "
            "is; accelerators need the extra .[cuda] or .[tpu]."
        ) from error


def platform(device: Any) -> str:
    """The platform that programs are compiled for: "cpu", "tpu", "cuda" or "gpu".

    "cuda" is an NVIDIA GPU of Ampere or later, for which cuDNN has an attention kernel; "gpu" is
    any other GPU.
    """
    if device.platform != "gpu":
        return device.platform
    if "cuda" not in device.client.platform_version.lower():
        return "gpu"
    return "cuda" if float(device.compute_capability) >= 8.0 else "gpu"


def memory(device: Any) -> float | None:
    """Bytes of a device's memory that programs may use; None if it does not tell, as CPUs."""
    try:
        stats = device.memory_stats()
    except (NotImplementedError, jax.errors.JaxRuntimeError):  # a device that is only described
        stats = None
    return float(stats["bytes_limit"]) if stats and "bytes_limit" in stats else None


def peak(device_kind: str) -> float | None:
    """Peak bfloat16 FLOP/s of a device; a product and a sum are two operations.

    Args:
      device_kind: JAX's name of it.

    Returns:
      None if no peak of this device is known here, as for a part of a GPU (MIG).
    """
    if "MIG" in device_kind:
        return None
    return next((flops for name, flops in _PEAKS.items() if device_kind.startswith(name)), None)
