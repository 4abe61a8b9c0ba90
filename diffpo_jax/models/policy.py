"""The policy, a record of pure functions through which the sampler and the losses use a network."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.arrays.types import Observation, Params


class Policy(NamedTuple):
    """Functions of (params, arrays), without state and without flax.

    Attributes:
      mask_id: token of positions that are not yet written.
      vocab: V.
      logit_shift: 1 if the output at position i predicts token i+1 (Dream), else 0.
      init: key -> params {"denoiser", "threshold"}.
      init_adapter: key -> params["adapter"], if an adapter (LoRA) is trained.  All functions of
        params use the adapter if params have one.
      hidden: (params, tokens [B S], mask [B S]) -> hidden states [B S D].
      logits: (params, hidden [... D]) -> logits [... V], float32 or wider; linear in `hidden`,
        except that rows of the embedding that belong to no token have -inf.
      hidden_and_kv: (params, tokens [B S], mask [B S]) -> (hidden states, kv): `hidden`, and every
        layer's keys and values, arrays [layers B ...], for `hidden_within`.
      hidden_within: (params, kv, tokens [B S], mask [B S], start [B], span) -> hidden states
        [B span D] of the positions from `start` on; for the others it takes keys and values from
        `kv`.
      attention_block: positions of a block, if a position sees only its own block and those before
        it. None if it sees the whole row.
      attention_origin: where blocks are counted from, "completion" or "prompt".
      hidden_beside: (params, kv, tokens [B q], positions [B q], sees [B q S+q]) -> hidden states
        [B q D] of tokens that see given rows, by their `kv`, and each other.
      hidden_and_kv_beside: the same with the tokens' own keys and values.
      hidden_under: (params, tokens [B S], mask [B S], causal, theta) -> hidden states [B S D] with
        another attention (whether a token sees only those before it) and base of RoPE.
      init_state_head: key -> params["state_head"].
      judge: (params, observation) -> `state_head.Judgement` of committing the first k positions.
      token_logits: (params, hidden [B c D], tokens [B n]) -> logits [B c n] of these tokens.
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
    attention_block: int | None = None
    attention_origin: str = "completion"
    hidden_beside: Callable[..., Float[Array, "B q D"]] | None = None
    hidden_and_kv_beside: Callable[..., tuple[Float[Array, "B q D"], Any]] | None = None
    hidden_under: Callable[..., Float[Array, "B S D"]] | None = None
    init_adapter: Callable[[Key[Array, ""]], Params] | None = None
    init_state_head: Callable[[Key[Array, ""]], Params] | None = None
    judge: Callable[[Params, Observation], Any] | None = None
    token_logits: Callable[..., Float[Array, "B c n"]] | None = None
