"""Floating-point operations of matrix products, as they stand in a compiled program."""

import math
import re

import numpy as np

from diffpo_jax.planning.hlo import Array, Instruction


def flops(instruction: Instruction, operands: list[Array]) -> float:
    """2 for every product that is added up; 0 of an instruction that is no matrix product.

    Args:
      operands: their arrays.
    """
    if instruction.opcode == "convolution":
        return _of_convolution(instruction, *operands)
    if instruction.opcode == "custom-call":
        target = _target(instruction)
        if target.startswith("__cudnn$fmha"):
            return _of_cudnn(target, *operands[:2])
        if kernel := re.match(r"splash_mha_(fwd|dq|dkv)_", instruction.name):
            return _of_splash(kernel[1], *operands[2:4])
    contracted = _contracted(instruction)
    if contracted is None:
        return 0.0
    out = math.prod(instruction.result[0].dims)
    return 2.0 * out * math.prod(operands[0].dims[axis] for axis in contracted)


def _of_cudnn(target: str, q: Array, k: Array) -> float:
    """Of cuDNN's attention, whose arrays are [B tokens H Dh]: the way back has five products."""
    return (5 if "Backward" in target else 2) * 2.0 * math.prod(q.dims) * k.dims[1]


def _of_splash(phase: str, q: Array, k: Array) -> float:
    """Of Pallas' attention kernels: products of all queries with all keys.

    Forward scores and what they weigh; for dq the scores again, dp and dq; for dk and dv the scores
    again, dp, dv and dk.
    """
    count = {"fwd": 2, "dq": 3, "dkv": 4}[phase]
    return count * 2.0 * math.prod(q.dims) * k.dims[-2]


def _contracted(instruction: Instruction) -> list[int] | None:
    if instruction.opcode == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        return [int(n) for n in found[1].split(",") if n] if found else []
    if instruction.opcode == "custom-call" and re.search("matmul|gemm", _target(instruction)):
        # oneDNN's and cuBLAS's: axes stand in their settings, where they are not the plain ones.
        found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes)
        return [int(n) for n in re.findall(r"\d+", found[1])] if found else [-1]
    return None


def _target(instruction: Instruction) -> str:
    found = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return found[1] if found else ""


def _of_convolution(instruction: Instruction, data: Array, kernel: Array) -> float:
    """TPU programs have their products in this form, and batches of them as a window.

    Such a window slides over padding for the most part, which costs nothing.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if not labels:
        return 0.0
    of_input, of_kernel, of_result = labels.groups()
    window = _window(instruction.attributes)
    result = dict(zip(of_result, instruction.result[0].dims))
    given = dict(zip(of_input, data.dims))
    weights = dict(zip(of_kernel, kernel.dims))
    count = 2.0 * result["b"] * result["f"] * weights["i"]
    for axis in sorted(set(of_input) - {"b", "f"}):
        at = int(axis)
        settings = {name: values[at] for name, values in window.items() if at < len(values)}
        count *= _hits(result[axis], weights[axis], given[axis], settings)
    return count


def _window(attributes: str) -> dict[str, list[str]]:
    found = re.search(r"window=\{([^}]*)\}", attributes)
    pairs = (word.split("=") for word in found[1].split()) if found else ()
    return {name: values.split("x") for name, values in pairs}


def _hits(out: int, size: int, given: int, settings: dict[str, str]) -> int:
    """How often a window's place meets an element of the input, and neither padding nor a hole.

    Args:
      out, size, given: of the result, the window and the input, along one axis.
    """
    stride, hole = int(settings.get("stride", 1)), int(settings.get("lhs_dilate", 1))
    spread = int(settings.get("rhs_dilate", 1))
    before = int(settings.get("pad", "0_0").split("_")[0])
    place = np.arange(out)[:, None] * stride + np.arange(size)[None, :] * spread - before
    inside = (place >= 0) & (place <= (given - 1) * hole)
    return int(np.sum(inside & (place % hole == 0)))
