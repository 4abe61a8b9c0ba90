"""Sources of the entropy bound γ: given numbers, a draw from the head, or the head's median.

A threshold is a function (params, features [B D], keys [B]) -> (γ [B] in nats, log-density of
log γ [B]).  The sampler calls it on the features of its first call.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Key

from diffpo_jax.arrays.types import Params
from diffpo_jax.models.policy import Policy

Threshold = Callable[
    [Params, Float[Array, "B D"], Key[Array, "B"]], tuple[Float[Array, "B"], Float[Array, "B"]]
]


def fixed(gamma: Float[Array, ""] | float) -> Threshold:
    """The same γ for every row, without a density."""

    def threshold(params, features, keys):
        del params, keys
        rows = jnp.broadcast_to(jnp.asarray(gamma, jnp.float32), features.shape[:1])
        return rows, jnp.zeros_like(rows)

    return threshold


def drawn(policy: Policy) -> Threshold:
    """A draw of log γ ~ N(μ_φ(c), σ_φ(c)²) for each row, as training rollouts take it."""

    def threshold(params, features, keys):
        mu, sigma = policy.threshold(params, features)
        noise = jax.vmap(lambda key: jax.random.normal(key, (), mu.dtype))(keys)
        log_gamma = mu + sigma * noise
        return jnp.exp(log_gamma), log_normal_density(log_gamma, mu, sigma)

    return threshold


def median(policy: Policy, scale: Float[Array, "*B"] | float = 1.0) -> Threshold:
    """The median exp(μ_φ(c)) times a factor, without a density, as evaluations take it.

    Args:
      scale: the factor, one for all rows or one for each.
    """

    def threshold(params, features, keys):
        del keys
        mu, _ = policy.threshold(params, features)
        return scale * jnp.exp(mu), jnp.zeros_like(mu)

    return threshold


def by_row(policy: Policy, gamma: Float[Array, "B"], scale: Float[Array, "B"]) -> Threshold:
    """Each row's own γ, without a density; where it is NaN, the head's median times a factor."""

    def threshold(params, features, keys):
        learned, density = median(policy, scale)(params, features, keys)
        return jnp.where(jnp.isnan(gamma), learned, gamma), density

    return threshold


def log_normal_density(
    log_gamma: Float[Array, "B"], mu: Float[Array, "B"], sigma: Float[Array, "B"]
) -> Float[Array, "B"]:
    """Log-density of log γ under N(μ, σ²).

    The density of γ itself differs by −log γ, which cancels in every ratio.
    """
    return norm.logpdf(log_gamma, mu, sigma)
