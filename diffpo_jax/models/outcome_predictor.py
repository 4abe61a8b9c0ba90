"""What becomes of a prompt at each dial of a commit rule, predicted from features (our choice)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class OutcomePredictor(nn.Module):
    """Maps features [N D] to the logit of a right answer and the calls at each dial, both [N C]."""

    width: int
    dials: int

    @nn.compact
    def __call__(self, x: Float[Array, "N D"]) -> tuple[Float[Array, "N C"], Float[Array, "N C"]]:
        for name in ("first", "second"):
            x = nn.relu(nn.Dense(self.width, name=name)(x))
        logits, calls = jnp.split(nn.Dense(2 * self.dials, name="out")(x), 2, axis=-1)
        return logits, 1 + nn.softplus(calls)
