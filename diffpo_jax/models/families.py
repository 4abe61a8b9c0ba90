"""Model families: shapes and conventions of the networks we know."""

from typing import NamedTuple

import jax.numpy as jnp

from diffpo_jax.config import ModelConfig, ThresholdConfig
from diffpo_jax.errors import UserError
from diffpo_jax.models.denoiser import Denoiser, Shape
from diffpo_jax.models.policy import Policy
from diffpo_jax.models.threshold_head import ThresholdHead
from diffpo_jax.types import Params


class Family(NamedTuple):
    """What the checkpoints of a family share, beyond their sizes."""

    logit_shift: int  # 1: position i predicts token i + 1


FAMILIES = {"tiny": Family(logit_shift=0)}


def make_policy(
    model: ModelConfig, threshold: ThresholdConfig, *, vocab: int, mask_id: int, platform: str
) -> Policy:
    """Builds the policy of a configuration.

    Args:
      vocab: V, from the tokenizer.
      mask_id: the tokenizer's mask token.
      platform: "cpu", "gpu" or "tpu": what the programs will be compiled for.

    Raises:
      UserError: unknown family.
    """
    if model.family not in FAMILIES:
        raise UserError(
            f"config.model.family={model.family!r} is unknown; use one of: {', '.join(FAMILIES)}."
        )
    family = FAMILIES[model.family]
    shape = Shape(
        vocab=vocab,
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads,
        ff=model.ff,
        rope_theta=model.rope_theta,
        norm_eps=model.norm_eps,
        embedding_std=model.embedding_std,
        positions=model.positions,
        dtype=jnp.dtype(model.dtype),
        param_dtype=jnp.dtype(model.param_dtype),
        remat=model.remat,
        scan_unroll=model.scan_unroll,
        barriers=platform == "cpu",
    )
    denoiser, keeping = Denoiser(shape), Denoiser(shape, keeps=True)
    head = ThresholdHead(threshold)

    def init(key):
        tokens, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
        variables = denoiser.init(key, tokens, mask, method="initialise")
        features = jnp.zeros((1, model.width), jnp.float32)
        return {
            "denoiser": variables["params"],
            "threshold": head.init(key, features)["params"],
        }

    def hidden(params: Params, tokens, mask):
        return denoiser.apply({"params": params["denoiser"]}, tokens, mask)

    def fill(params: Params, tokens, mask):
        return keeping.apply({"params": params["denoiser"]}, tokens, mask)

    def hidden_within(params: Params, kv, tokens, mask, start, span: int):
        variables = {"params": params["denoiser"]}
        return denoiser.apply(variables, kv, tokens, mask, start, span, method="within")

    def logits(params: Params, states):
        return denoiser.apply({"params": params["denoiser"]}, states, method="logits")

    def gamma_distribution(params: Params, features):
        return head.apply({"params": params["threshold"]}, features)

    return Policy(
        mask_id,
        vocab,
        family.logit_shift,
        init,
        hidden,
        logits,
        gamma_distribution,
        fill,
        hidden_within,
    )
