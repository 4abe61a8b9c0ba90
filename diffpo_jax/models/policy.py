"""A policy is a record of pure functions: what the sampler and the losses see of a network."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.arrays.types import Params


class Policy(NamedTuple):
    """Functions of (params, arrays); no state, no flax.

    Attributes:
      mask_id: token that stands for a position not yet written.
      vocab: V.
      logit_shift: 1 where the output at position i predicts token i+1 (Dream), else 0.
      init: key -> params {"denoiser", "threshold"}.
      init_adapter: key -> params["adapter"], where the policy is trained through one (LoRA);
        functions of params use the adapter wherever it is among them.
      hidden: (params, tokens [B S], mask [B S]) -> hidden states [B S D].
      logits: (params, hidden [... D]) -> logits [... V], float32 or wider.
      hidden_and_kv: (params, tokens [B S], mask [B S]) -> (hidden states, kv): `hidden`, and every
        layer's keys and values, arrays [layers B ...], for `hidden_within`.
      hidden_within: (params, kv, tokens [B S], mask [B S], start [B], span) -> hidden states
        [B span D] of the positions from `start` on; those outside are attended to as `kv` has
        them.
      threshold: (params, features [B D]) -> (mu [B], sigma [B]) of log gamma (gamma in nats).
    """

    mask_id: int
    vocab: int
    logit_shift: int
    init: Callable[[Key[Array, ""]], Params]
    hidden: Callable[[Params, Int[Array, "B S"], Bool[Array, "B S"]], Float[Array, "B S D"]]
    logits: Callable[[Params, Float[Array, "*N D"]], Float[Array, "*N V"]]
    threshold: Callable[[Params, Float[Array, "B D"]], tuple[Float[Array, "B"], Float[Array, "B"]]]
    hidden_and_kv: Callable[..., tuple[Float[Array, "B S D"], Any]] | None = None
    hidden_within: Callable[..., Float[Array, "B q D"]] | None = None
    init_adapter: Callable[[Key[Array, ""]], Params] | None = None
