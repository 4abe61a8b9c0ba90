"""Published peaks by device kind, and the platform that programs are compiled for."""

import types

import pytest

from diffpo_jax.distributed import chips


@pytest.mark.parametrize(
    ("kind", "version", "capability", "expected"),
    [
        ("cpu", "", None, "cpu"),
        ("tpu", "", None, "tpu"),
        ("gpu", "cuda 13000", "9.0", "cuda"),
        ("gpu", "cuda 12080", "8.0", "cuda"),
        ("gpu", "cuda 12080", "7.5", "gpu"),  # cuDNN has no such kernel for it
        ("gpu", "rocm 60200", "gfx942", "gpu"),
    ],
)
def test_platform_by_device(kind, version, capability, expected):
    device = types.SimpleNamespace(
        platform=kind,
        client=types.SimpleNamespace(platform_version=version),
        compute_capability=capability,
    )
    assert chips.platform(device) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v5e", 197e12),
        ("TPU v6 lite", 918e12),
        ("TPU v4", 275e12),
        ("TPU v4 lite", None),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", None),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", None),
        ("Tesla T4", 8.1e12),
        ("NVIDIA GeForce RTX 3090", 71e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("cpu", None),
    ],
)
def test_peak_by_device_kind(kind, expected):
    assert chips.peak(kind) == expected
