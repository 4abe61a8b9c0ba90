"""A policy is a record of pure functions: what the sampler and the losses see of a network."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.types import Params


class Policy(NamedTuple):
    """Functions of (params, arrays); no state, no flax.

    Attributes:
      mask_id: token that stands for a position not yet written.
      vocab: V.
      logit_shift: 1 where the output at position i predicts token i+1 (Dream), else 0.
      init: key -> params {"denoiser", "threshold"}.
      hidden: (params, tokens [B S], mask [B S]) -> hidden states [B S D].
      logits: (params, hidden [... D]) -> logits [... V], float32 or wider.
      threshold: (params, features [B D]) -> (mu [B], sigma [B]) of log gamma (gamma in nats).
    """

    mask_id: int
    vocab: int
    logit_shift: int
    init: Callable[[Key[Array, ""]], Params]
    hidden: Callable[[Params, Int[Array, "B S"], Bool[Array, "B S"]], Float[Array, "B S D"]]
    logits: Callable[[Params, Float[Array, "*N D"]], Float[Array, "*N V"]]
    threshold: Callable[[Params, Float[Array, "B D"]], tuple[Float[Array, "B"], Float[Array, "B"]]]
