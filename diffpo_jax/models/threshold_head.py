"""The threshold head, which maps prompt features to a log-normal over the entropy bound gamma.

This is DiFFPO's learned sampler.  The head's last layer starts at zero, so that it starts as
log gamma ~ N(log gamma_0, sigma_0^2) for every prompt.  The paper gives no architecture: a small
MLP is our choice, and so is the bounded sigma if it is learned.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffpo_jax.config import ThresholdConfig


class ThresholdHead(nn.Module):
    """Maps features [B D] to (mu [B], sigma [B]) of log gamma, in float32 or wider."""

    config: ThresholdConfig

    @nn.compact
    def __call__(
        self, features: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        c = self.config
        x = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        x = jnp.tanh(nn.Dense(c.hidden, name="hidden", dtype=x.dtype)(x))
        out = nn.Dense(2, name="out", kernel_init=nn.initializers.zeros, dtype=x.dtype)(x)
        # gamma may be 0 in mode "model", which does not use the head.
        mu = math.log(max(c.gamma, 1e-6)) + out[..., 0]
        if not c.learn_sigma:
            return mu, jnp.full_like(mu, c.sigma)
        return mu, _bounded_sigma(c, out[..., 1])


def _bounded_sigma(c: ThresholdConfig, x: Float[Array, "B"]) -> Float[Array, "B"]:
    """sigma between its bounds, sigma_0 at x = 0.

    A sigmoid in log space bounds it: at a bound a clip would have no gradient, and sigma could not
    leave it.
    """
    low, high = math.log(c.sigma_min), math.log(c.sigma_max)
    start = (math.log(c.sigma) - low) / (high - low)
    # Keeps the sigmoid's argument finite if sigma_0 is one of the bounds.
    start = min(max(start, 1e-3), 1 - 1e-3)
    return jnp.exp(low + (high - low) * nn.sigmoid(x + math.log(start / (1 - start))))
