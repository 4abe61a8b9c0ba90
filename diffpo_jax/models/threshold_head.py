"""The threshold head: prompt features -> a log-normal over the entropy bound gamma.

DiFFPO's learned sampler.  The head starts as a constant, log gamma ~ N(log gamma_0, sigma_0^2),
whatever the prompt: its last layer is zero.  The paper gives no architecture; a small MLP with
a learned, bounded sigma is our choice.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffpo_jax.config import ThresholdConfig


class ThresholdHead(nn.Module):
    """features [B D] -> (mu [B], sigma [B]) of log gamma, in float32 or wider."""

    config: ThresholdConfig

    @nn.compact
    def __call__(
        self, features: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        c = self.config
        x = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        x = jnp.tanh(nn.Dense(c.hidden, name="hidden", dtype=x.dtype)(x))
        out = nn.Dense(2, name="out", kernel_init=nn.initializers.zeros, dtype=x.dtype)(x)
        # In mode "model" the head is not read, and gamma may be 0 there.
        mu = math.log(max(c.gamma, 1e-6)) + out[..., 0]
        if not c.learn_sigma:
            return mu, jnp.full_like(mu, c.sigma)
        # Clipped in log space; at a bound the gradient is kept so that sigma can come back.
        return mu, _bounded_sigma(c, out[..., 1])


def _bounded_sigma(c: ThresholdConfig, x: Array) -> Array:
    """sigma_0 at x = 0, between the bounds everywhere: a clip could not come back from one."""
    low, high = math.log(c.sigma_min), math.log(c.sigma_max)
    start = (math.log(c.sigma) - low) / (high - low)
    # sigma_0 may lie on a bound; keep the sigmoid's argument finite.
    start = min(max(start, 1e-3), 1 - 1e-3)
    return jnp.exp(low + (high - low) * nn.sigmoid(x + math.log(start / (1 - start))))
