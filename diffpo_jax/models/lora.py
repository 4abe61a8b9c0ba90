"""LoRA: a product of two narrow matrices added to each kernel of a block (arXiv 2106.09685).

    y = x W + (alpha / r) (x A) B,   A [in, r], B [r, out]

B starts at zero, so a new adapter changes nothing.  Adapters are stacked over layers like the
blocks: params["adapter"]["blocks"] = {"q_a": [layers, in, r], "q_b": [layers, r, out], ...}.  There
is no dropout: with it in only one of sampler and scorer, the two would be different policies.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import LoRAConfig


def init(key: Key[Array, ""], denoiser: Params, config: LoRAConfig) -> Params:
    """A new adapter for a denoiser, in float32 whatever the dtype of the kernels.

    Args:
      denoiser: params["denoiser"], as arrays or shapes.
    """
    blocks: Params = {}
    for number, name in enumerate(config.targets):
        layers, width, out = denoiser["blocks"][name].shape
        # As in PEFT, uniform in +-1/sqrt(in).
        a = jax.random.uniform(
            jax.random.fold_in(key, number), (layers, width, config.rank), minval=-1.0
        )
        blocks[f"{name}_a"] = a * width**-0.5
        blocks[f"{name}_b"] = jnp.zeros((layers, config.rank, out))
    return {"blocks": blocks}


def merge(denoiser: Params, adapter: Params, config: LoRAConfig, dtype: str = "") -> Params:
    """The denoiser with the adapter's products added to its kernels, in float32.

    Args:
      dtype: dtype of the merged kernels; "" for the kernels' own.  bfloat16 keeps only 8 bits and
        loses most of a change that is much smaller than the kernel.
    """

    def merge_kernel(name: str) -> Array:
        a, b = (adapter["blocks"][f"{name}_{part}"] for part in "ab")
        kernel = denoiser["blocks"][name]
        wide = jnp.promote_types(kernel.dtype, jnp.float32)
        product = jnp.einsum("lir,lro->lio", a.astype(wide), b.astype(wide))
        whole = kernel.astype(wide) + config.alpha / config.rank * product
        return whole.astype(dtype or kernel.dtype)

    kernels = {name: merge_kernel(name) for name in config.targets}
    return {**denoiser, "blocks": {**denoiser["blocks"], **kernels}}
