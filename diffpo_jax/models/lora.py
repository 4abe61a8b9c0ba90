"""LoRA: a product of two narrow matrices beside each kernel of a block (arXiv 2106.09685).

    y = x W + (alpha / r) (x A) B,   A [in, r], B [r, out]

B starts at zero, so that an adapter starts as nothing.  Adapters are stacked over layers like
the blocks: params["adapter"]["blocks"] = {"q_a": [layers, in, r], "q_b": [layers, r, out], ...}.
There is no dropout: a sampler that does not drop what the scorer drops would be another policy.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import LoRAConfig


def init(key: Key[Array, ""], denoiser: Params, config: LoRAConfig) -> Params:
    """An adapter for a denoiser, in float32 whatever the kernels' own.

    Args:
      denoiser: params["denoiser"], arrays or shapes.
    """
    blocks: Params = {}
    for number, name in enumerate(config.targets):
        layers, width, out = denoiser["blocks"][name].shape
        # PEFT's start: uniform in +-1/sqrt(in).
        a = jax.random.uniform(
            jax.random.fold_in(key, number), (layers, width, config.rank), minval=-1.0
        )
        blocks[f"{name}_a"] = a * width**-0.5
        blocks[f"{name}_b"] = jnp.zeros((layers, config.rank, out))
    return {"blocks": blocks}


def merge(denoiser: Params, adapter: Params, config: LoRAConfig, dtype: str = "") -> Params:
    """The denoiser whose kernels have the adapter's products added, in float32.

    Args:
      dtype: the merged kernels are rounded to; "": the kernels' own.  bfloat16 has 8 bits: of a
        change much smaller than the kernel most is lost.
    """

    def merged(name: str) -> Array:
        a, b = (adapter["blocks"][f"{name}_{part}"] for part in "ab")
        kernel = denoiser["blocks"][name]
        wide = jnp.promote_types(kernel.dtype, jnp.float32)
        product = jnp.einsum("lir,lro->lio", a.astype(wide), b.astype(wide))
        whole = kernel.astype(wide) + config.alpha / config.rank * product
        return whole.astype(dtype or kernel.dtype)

    kernels = {name: merged(name) for name in config.targets}
    return {**denoiser, "blocks": {**denoiser["blocks"], **kernels}}
