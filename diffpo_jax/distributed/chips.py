"""What is published of accelerators, and what kinds of them there are for a program."""

from typing import Any, NamedTuple


class Chip(NamedTuple):
    """One chip; rates are peaks, which no program reaches."""

    flops: float  # bfloat16 FLOP/s
    hbm_gib: float  # a program may take
    hbm_rate: float  # bytes/s
    ici_rate: float  # bytes/s out of a chip, over all its links to other chips together
    axes: int  # of the torus or mesh its slices are cut from
    megacore: bool = False  # its two cores are one device only where that is asked for


# FLOP/s, HBM and ICI bandwidth: the tables "System architecture" of the Google Cloud TPU
# documentation, a page for each version (cloud.google.com/tpu/docs/v4, v5e, v5p, v6e); they give
# ICI in Gbit/s a chip: 2400, 1600, 4800, 3584.  HBM there is 32, 16, 95 and 32 GiB; here is what
# libtpu 0.0.42 says is available when it refuses a program.
CHIPS = {
    "v4": Chip(275e12, 30.75, 1228e9, 300e9, 3, megacore=True),
    "v5e": Chip(197e12, 15.75, 819e9, 200e9, 2),
    "v5p": Chip(459e12, 95.74, 2765e9, 600e9, 3),
    "v6e": Chip(918e12, 31.25, 1640e9, 448e9, 2),
}

# How jax names devices, the longer name before one that it begins with.  GPUs: bfloat16 without
# sparsity, from NVIDIA's data sheets of A100, H100 and H200, which give those of the last two with
# it, twice as much.
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


def platform(device: Any) -> str:
    """What programs are compiled for.

    Returns:
      "cpu", "tpu", "cuda" or "gpu": the first of GPUs is an NVIDIA of Ampere or later, for which
      cuDNN has an attention kernel, the second any other.
    """
    if device.platform != "gpu":
        return device.platform
    if "cuda" not in device.client.platform_version.lower():
        return "gpu"
    return "cuda" if float(device.compute_capability) >= 8.0 else "gpu"


def peak(device_kind: str) -> float | None:
    """Most bfloat16 operations a second of a device, a product and a sum being two.

    Args:
      device_kind: what jax calls it.

    Returns:
      None: of this device no peak is known here; of a part of a GPU (MIG) none is.
    """
    if "MIG" in device_kind:
        return None
    return next((flops for name, flops in _PEAKS.items() if device_kind.startswith(name)), None)
