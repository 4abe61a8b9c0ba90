"""The token distribution: log-probabilities, entropies, draws.

One function gives log-probabilities to the sampler and to the scorer, at one temperature, so
that the ratio of the two is 1 before any update.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def log_probs(
    logits: Float[Array, "*N V"], mask_id: int, temperature: float
) -> Float[Array, "*N V"]:
    """log softmax(logits / T) with the mask token removed (its entry is -inf).

    Args:
      temperature: T > 0.
    """
    is_mask = jnp.arange(logits.shape[-1]) == mask_id
    return jax.nn.log_softmax(jnp.where(is_mask, -jnp.inf, logits / temperature), axis=-1)


def token_log_prob(log_p: Float[Array, "*N V"], tokens: Int[Array, "*N"]) -> Float[Array, "*N"]:
    """The entry of each token."""
    return jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]


def entropy(log_p: Float[Array, "*N V"]) -> Float[Array, "*N"]:
    """Entropy in nats; entries of -inf count nothing, in the gradient either."""
    # Double where: p log p at p = 0 is 0, but the gradient of log there is not finite.
    finite = jnp.where(jnp.isfinite(log_p), log_p, 0.0)
    p = jnp.where(jnp.isfinite(log_p), jnp.exp(finite), 0.0)
    return jnp.maximum(-jnp.sum(p * finite, axis=-1), 0.0)


def sample(
    log_p: Float[Array, "B L V"], keys: Key[Array, "B"], temperature: float
) -> Int[Array, "B L"]:
    """Draws every position of every row (Gumbel-max), or takes the argmax at temperature 0.

    Args:
      log_p: from `log_probs`, at the temperature to draw at (at any one for temperature 0).
      keys: one a row, so that a row's draw does not depend on the batch around it.
    """
    if temperature == 0:
        return jnp.argmax(log_p, axis=-1).astype(jnp.int32)
    row = log_p.shape[1:]
    # Drawn flat: XLA's CPU backend takes ten times as long to compile the draw of a matrix.
    draw = jax.vmap(lambda key: jax.random.gumbel(key, (math.prod(row),), log_p.dtype))
    return jnp.argmax(log_p + draw(keys).reshape(log_p.shape), axis=-1).astype(jnp.int32)
