"""Kernels of frozen denoisers in 8 or 4 bits.

Each column of a kernel [in, out] is cut into blocks of 64 inputs.  The weights of a block share a
scale: their largest magnitude, for int8 divided by 127.5.  Kinds:

    int8   integers; 8.5 bits per weight, with its share of a scale
    nf4    16 levels, the quantiles of a normal distribution (QLoRA, arXiv 2305.14314); 4.5 bits

qwix, of the extra `quantized`, rounds the weights; this module reads them in every product.  Just
before a product a kernel is multiplied out in the activations' dtype, one block of the network at a
time, so that only the few bits stay in memory.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import PROJECTIONS
from diffpo_jax.system.errors import UserError

BLOCK = 64
_VALUES = {"int8": jnp.int8, "nf4": jnp.uint4}

# Appendix E of QLoRA, in the order of the uint4 numbers.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


class Quantized(NamedTuple):
    """A quantized kernel, or a stack of them."""

    values: Shaped[Array, "*N in out"]  # int8, or the uint4 numbers of levels
    scale: Float[Array, "*N blocks out"]  # float32

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel."""
        return self.values.shape

    @property
    def kind(self) -> str:
        """Kind of quantization, a key of `_VALUES`."""
        return next(kind for kind, dtype in _VALUES.items() if self.values.dtype == dtype)


def quantize_blocks(params: Params, kind: str | None) -> Params:
    """Parameters with the kernels of the denoiser's blocks quantized; unchanged without a kind."""
    if not kind:
        return params
    blocks = params["denoiser"]["blocks"]
    rounded = {name: quantize(blocks[name], kind) for name in PROJECTIONS}
    return params | {"denoiser": params["denoiser"] | {"blocks": blocks | rounded}}


def quantize(kernel: Float[Array, "*N in out"], kind: str) -> Quantized:
    """Quantizes a kernel in blocks of gcd(64, inputs) inputs.

    Raises:
      UserError: qwix is not installed.
    """
    try:
        import qwix  # takes seconds to import, and few runs need it
    except ImportError as error:
        raise UserError(
            f"config.model.quantized={kind!r} needs qwix: pip install -e '.[quantized]' in this "
            "checkout."
        ) from error
    inputs = kernel.ndim - 2
    others = [axis for axis in range(kernel.ndim) if axis != inputs]
    rounded = qwix.quantize(
        kernel.astype(jnp.float32),
        kind,
        channelwise_axes=others,
        tiled_axes={inputs: math.gcd(BLOCK, kernel.shape[inputs])},
    )
    return Quantized(rounded.qvalue, rounded.scale)


def dequantize(stored: Quantized, dtype: Any) -> Float[Array, "*N in out"]:
    """The kernel, multiplied out in float32 and rounded to `dtype`."""
    levels = (
        _nf4_levels(stored.values) if stored.kind == "nf4" else stored.values.astype(jnp.float32)
    )
    *rest, inputs, out = levels.shape
    blocks = stored.scale.shape[-2]
    cut = levels.reshape(*rest, blocks, inputs // blocks, out)
    return (cut * stored.scale[..., None, :]).reshape(levels.shape).astype(dtype)


def _nf4_levels(numbers: Shaped[Array, "*N"]) -> Float[Array, "*N"]:
    # 15 selections by the bits, lowest first: elementwise, so they fuse, and shard like the kernel.
    # A table look-up would be a gather, which TPUs do one number at a time.
    bits = [(numbers.astype(jnp.int32) >> bit) & 1 for bit in range(4)]
    levels = [jnp.float32(level) for level in NF4]
    for bit in bits:
        levels = [jnp.where(bit == 1, b, a) for a, b in zip(levels[::2], levels[1::2])]
    return levels[0]
