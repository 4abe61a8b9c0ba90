"""Published peak FLOP/s and memory of accelerators, and the platform to compile for."""

import os
import re
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


class Gpu(NamedTuple):
    """An NVIDIA GPU, as a plan needs to know it."""

    kind: str  # JAX's name of it
    flops: float  # peak FLOP/s of bfloat16 products without sparsity, summed in float32
    gib: float  # as CUDA reports it, which is less than what is sold
    bandwidth: float  # bytes/s
    capability: tuple[int, int]
    processors: int  # streaming multiprocessors
    cache_mib: int
    ghz: float


# FLOP/s of A100, H100 and H200 are from NVIDIA's data sheets; where these state them with sparsity,
# half of that.  The other figures are NVIDIA's too, but were not compared with its documents: do so
# before relying on one.  T4 has no bfloat16 units: XLA computes such products in float32, whose
# peak this is.  Memory is the total that programs on these GPUs report; drivers differ by 1 %.
GPUS = {
    "t4": Gpu("Tesla T4", 8.1e12, 14.74, 320e9, (7, 5), 40, 4, 1.59),
    "l4": Gpu("NVIDIA L4", 121e12, 22.03, 300e9, (8, 9), 58, 48, 2.04),
    "a10": Gpu("NVIDIA A10", 125e12, 22.03, 600e9, (8, 6), 72, 6, 1.695),
    "rtx3090": Gpu("NVIDIA GeForce RTX 3090", 71e12, 23.5, 936e9, (8, 6), 82, 6, 1.695),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", 165.2e12, 23.5, 1008e9, (8, 9), 128, 72, 2.52),
    "a100-40": Gpu("NVIDIA A100-SXM4-40GB", 312e12, 39.38, 1555e9, (8, 0), 108, 40, 1.41),
    "a100-80": Gpu("NVIDIA A100-SXM4-80GB", 312e12, 79.1, 2039e9, (8, 0), 108, 40, 1.41),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 989e12, 79.1, 3350e9, (9, 0), 132, 50, 1.98),
    "h200": Gpu("NVIDIA H200", 989e12, 139.8, 4800e9, (9, 0), 132, 50, 1.98),
}

# By the prefix of JAX's device kind; longer names come before shorter ones.
_PEAKS = {
    "TPU v4 lite": None,  # made for inference; its peak is not in those tables
    "TPU v4": CHIPS["v4"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "TPU v6e": CHIPS["v6e"].flops,
    "NVIDIA A100": GPUS["a100-80"].flops,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": GPUS["h100"].flops,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": GPUS["h200"].flops,
    "NVIDIA L40": None,  # this and the other None are models of their own, not in the table
    "NVIDIA A10G": None,
    "NVIDIA A10": GPUS["a10"].flops,
    "NVIDIA L4": GPUS["l4"].flops,
    "Tesla T4": GPUS["t4"].flops,
    "NVIDIA GeForce RTX 3090 Ti": None,
    "NVIDIA GeForce RTX 3090": GPUS["rtx3090"].flops,
    "NVIDIA GeForce RTX 4090 D": None,
    "NVIDIA GeForce RTX 4090": GPUS["rtx4090"].flops,
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
    # That of other makers' GPUs is a name, such as "gfx942".
    capability = str(device.compute_capability)
    numbered = re.fullmatch(r"\d+\.\d+", capability)
    return "cuda" if numbered and float(capability) >= 8.0 else "gpu"


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
