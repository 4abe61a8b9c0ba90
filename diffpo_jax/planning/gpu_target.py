"""An NVIDIA GPU that need not be present, in the form that XLA's compiler reads."""

import os
from typing import NamedTuple

from diffpo_jax.distributed.chips import Gpu


class _Generation(NamedTuple):
    """What GPUs of one compute capability share."""

    threads: int  # resident on a multiprocessor, at most
    shared: int  # bytes of shared memory of a multiprocessor
    block_shared: int  # of these a block may ask for
    units: int  # of float32 in a multiprocessor


# NVIDIA's CUDA C++ Programming Guide, the tables of compute capabilities.
_GENERATIONS = {
    (7, 5): _Generation(1024, 65_536, 65_536, 64),
    (8, 0): _Generation(2048, 167_936, 166_912, 64),
    (8, 6): _Generation(1536, 102_400, 101_376, 128),
    (8, 9): _Generation(1536, 102_400, 101_376, 128),
    (9, 0): _Generation(2048, 233_472, 232_448, 128),
}
# JAX's own share of a GPU's memory, and the variables that change it.
_SHARE, _SHARE_NAMES = 0.75, ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def describe(gpu: Gpu) -> str:
    """A `GpuTargetConfigProto` in its text form, as XLA's option target_config takes it."""
    own = _GENERATIONS[gpu.capability]
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49_152,
        "shared_memory_per_core": own.shared,
        "threads_per_core_limit": own.threads,
        "core_count": gpu.processors,
        "fpus_per_core": own.units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65_535,
        "block_dim_limit_z": 65_535,
        "memory_bandwidth": int(gpu.bandwidth),
        "l2_cache_size": gpu.cache_mib * 2**20,
        "clock_rate_ghz": gpu.ghz,
        "device_memory_size": int(gpu.gib * 2**30),
        "shared_memory_per_block_optin": own.block_shared,
        "registers_per_core_limit": 65_536,
        "registers_per_block_limit": 65_536,
    }
    lines = "\n".join(f"  {name}: {value}" for name, value in fields.items())
    major, minor = gpu.capability
    return f"""gpu_device_info {{
{lines}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{gpu.kind}"
"""


def pool_share() -> float:
    """The share of a GPU's memory that JAX lets programs use."""
    return next((float(os.environ[x]) for x in _SHARE_NAMES if os.environ.get(x)), _SHARE)
