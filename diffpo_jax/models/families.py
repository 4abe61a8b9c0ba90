"""Model families: names, settings and conventions of the networks that can be loaded."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import AUTO, LoRAConfig, ModelConfig, StateHeadConfig, ThresholdConfig
from diffpo_jax.models import config_keys, flops
from diffpo_jax.models import lora as lora_lib
from diffpo_jax.models import state_head as state_head_lib
from diffpo_jax.models.denoiser import Denoiser, Shape
from diffpo_jax.models.policy import Policy
from diffpo_jax.models.state_head import StateHead
from diffpo_jax.models.threshold_head import ThresholdHead
from diffpo_jax.system.errors import UserError


class Family(NamedTuple):
    """What the checkpoints of a family share, besides their sizes."""

    logit_shift: int  # 1 if position i predicts token i + 1, else 0
    weights: Mapping[str, str]  # path below params["denoiser"] -> published name; {i} is the layer
    settings: Mapping[str, str]  # field of ModelConfig -> key of config.json
    tying: str  # key of config.json for whether the embedding also gives the logits
    marks: Mapping[str, Any]  # other keys of config.json, equal in every checkpoint of the family
    supported: Mapping[str, Sequence[Any]]  # further keys that change the network -> values we have
    ignored: Collection[str]  # keys of config.json that change no logits
    fixed: Mapping[str, Any]  # fields of ModelConfig that are equal in every checkpoint
    # Whether config.model.family has to name it: other networks have the same model_type
    named: bool = False
    # Where blocks are counted from, if all checkpoints see by blocks, whose size is in `settings`
    origin: str | None = None
    # model_type of the networks with the same tensors that write from left to right, and the class
    # that their conversions name in config.json
    source: str | None = None
    architecture: str | None = None


_LLADA_BLOCK = "model.transformer.blocks.{i}"
_LLADA_WEIGHTS = {
    "embed": "model.transformer.wte.weight",
    "blocks/attn_norm/scale": f"{_LLADA_BLOCK}.attn_norm.weight",
    "blocks/q": f"{_LLADA_BLOCK}.q_proj.weight",
    "blocks/k": f"{_LLADA_BLOCK}.k_proj.weight",
    "blocks/v": f"{_LLADA_BLOCK}.v_proj.weight",
    "blocks/o": f"{_LLADA_BLOCK}.attn_out.weight",
    "blocks/ff_norm/scale": f"{_LLADA_BLOCK}.ff_norm.weight",
    "blocks/gate": f"{_LLADA_BLOCK}.ff_proj.weight",
    "blocks/up": f"{_LLADA_BLOCK}.up_proj.weight",
    "blocks/down": f"{_LLADA_BLOCK}.ff_out.weight",
    "norm/scale": "model.transformer.ln_f.weight",
    "unembed": "model.transformer.ff_out.weight",
}
_LLADA_SETTINGS = {
    "width": "d_model",
    "layers": "n_layers",
    "heads": "n_heads",
    "kv_heads": "n_kv_heads",
    "ff": "mlp_hidden_size",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "vocab": "embedding_size",
}
_LLADA_MARKS = {
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "rope": True,
    "include_bias": False,
    "include_qkv_bias": False,
    "scale_logits": False,
    "input_emb_norm": False,
}
_QWEN_BLOCK = "model.layers.{i}"
_QWEN_WEIGHTS = {
    "embed": "model.embed_tokens.weight",
    "blocks/attn_norm/scale": f"{_QWEN_BLOCK}.input_layernorm.weight",
    "blocks/q": f"{_QWEN_BLOCK}.self_attn.q_proj.weight",
    "blocks/k": f"{_QWEN_BLOCK}.self_attn.k_proj.weight",
    "blocks/v": f"{_QWEN_BLOCK}.self_attn.v_proj.weight",
    "blocks/o": f"{_QWEN_BLOCK}.self_attn.o_proj.weight",
    "blocks/ff_norm/scale": f"{_QWEN_BLOCK}.post_attention_layernorm.weight",
    "blocks/gate": f"{_QWEN_BLOCK}.mlp.gate_proj.weight",
    "blocks/up": f"{_QWEN_BLOCK}.mlp.up_proj.weight",
    "blocks/down": f"{_QWEN_BLOCK}.mlp.down_proj.weight",
    "norm/scale": "model.norm.weight",
    "unembed": "lm_head.weight",
}
_QWEN_BIASES = {f"blocks/{n}_bias": f"{_QWEN_BLOCK}.self_attn.{n}_proj.bias" for n in "qkv"}
_QWEN_NORMS = {f"blocks/{n}_norm/scale": f"{_QWEN_BLOCK}.self_attn.{n}_norm.weight" for n in "qk"}
_QWEN_SETTINGS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ff": "intermediate_size",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "vocab": "vocab_size",
}
# Tiny models have no published form.  They take LLaDA's names.  LLaDA's code has no learned
# positions, so tiny models have a model_type that it refuses.
_TINY_EXTRA = {f"blocks/{n}_bias": f"{_LLADA_BLOCK}.{n}_proj.bias" for n in "qkv"} | {
    f"blocks/{n}_norm/scale": f"{_LLADA_BLOCK}.{n}_norm.weight" for n in "qk"
}
_TINY_SETTINGS = {"qkv_bias": "include_qkv_bias", "positions": "positions"} | {
    name: name for name in ("head_dim", "qk_norm", "attention_block", "attention_origin")
}


def _qwen_marks(model_type: str) -> Mapping[str, Any]:
    return {"model_type": model_type, "hidden_act": "silu"}


_QWEN2 = Family(
    logit_shift=0,
    weights=_QWEN_WEIGHTS | _QWEN_BIASES,
    settings=_QWEN_SETTINGS,
    tying="tie_word_embeddings",
    marks={},
    supported=config_keys.DREAM_SUPPORTED,
    ignored=config_keys.DREAM_IGNORED,
    fixed={"qkv_bias": True, "positions": None},
)
_QWEN3 = _QWEN2._replace(
    weights=_QWEN_WEIGHTS | _QWEN_NORMS,
    settings=_QWEN_SETTINGS | {"head_dim": "head_dim"},
    supported=config_keys.QWEN3_SUPPORTED,
    ignored=config_keys.QWEN3_IGNORED,
    fixed={"qkv_bias": False, "qk_norm": True, "positions": None},
)

FAMILIES = {
    "tiny": Family(
        logit_shift=0,
        weights=_LLADA_WEIGHTS | _TINY_EXTRA | {"place": "model.transformer.wpe.weight"},
        settings=_LLADA_SETTINGS | _TINY_SETTINGS,
        tying="weight_tying",
        marks={"model_type": "diffpo_jax_tiny"},
        supported=config_keys.LLADA_SUPPORTED,
        ignored=config_keys.LLADA_IGNORED,
        fixed={},
    ),
    "llada": Family(
        logit_shift=0,
        weights=_LLADA_WEIGHTS,
        settings=_LLADA_SETTINGS,
        tying="weight_tying",
        marks={"model_type": "llada"} | _LLADA_MARKS,
        supported=config_keys.LLADA_SUPPORTED | {"include_qkv_bias": (False,)},
        ignored=config_keys.LLADA_IGNORED,
        fixed={"qkv_bias": False, "positions": None},
    ),
    "dream": _QWEN2._replace(logit_shift=1, marks=_qwen_marks("Dream")),
    # Qwen's networks with attention over the whole row, trained further as diffusion models.
    "a2d_qwen2": _QWEN2._replace(
        marks=_qwen_marks("a2d-qwen2"), source="qwen2", architecture="A2DQwen2LMHeadModel"
    ),
    "a2d_qwen3": _QWEN3._replace(
        marks=_qwen_marks("a2d-qwen3"), source="qwen3", architecture="A2DQwen3LMHeadModel"
    ),
    # Qwen's networks with attention by blocks.
    "sdar": _QWEN3._replace(
        settings=_QWEN3.settings | {"attention_block": "block_size"},
        marks=_qwen_marks("sdar"),
        ignored=config_keys.SDAR_IGNORED,
        fixed=_QWEN3.fixed | {"attention_origin": "prompt"},
        origin="prompt",
    ),
    "fast_dllm_v2": _QWEN2._replace(
        logit_shift=1,
        settings=_QWEN_SETTINGS | {"attention_block": "bd_size"},
        marks=_qwen_marks("Fast_dLLM_Qwen"),
        ignored=config_keys.FAST_DLLM_IGNORED,
        fixed=_QWEN2.fixed | {"attention_origin": "prompt"},
        origin="prompt",
    ),
    "open_dcoder": _QWEN2._replace(
        logit_shift=1,
        marks=_qwen_marks("qwen2"),
        named=True,
        source="qwen2",
        architecture="Qwen2ForCausalLM",
    ),
}

_SMALL = 2**22  # entries of all blocks' kernels, up to which the scan over layers is unrolled


def make_policy(
    model: ModelConfig,
    threshold: ThresholdConfig,
    lora: LoRAConfig | None = None,
    state: StateHeadConfig | None = None,
    *,
    places: int = 1,
    vocab: int,
    tokens: int | None = None,
    mask_id: int,
    platform: str,
    rows: NamedSharding | None = None,
) -> Policy:
    """Builds the policy of a configuration.

    Args:
      lora: the adapter that is trained, if any.
      places: positions of a block, for the head by state.
      vocab: V of the tokenizer, or of published weights, which may have more rows.
      tokens: how many tokens the tokenizer has, if that is known. Rows of published weights beyond
        them belong to no token, and their logits are -inf.
      mask_id: the tokenizer's mask token.
      platform: the platform to compile for, as `distributed.chips.platform` names it.
      rows: sharding of sequences over devices; None for one device.

    Raises:
      UserError: the family is unknown or sees by other blocks, or the attention does not exist on
        this platform.
    """
    if model.family not in FAMILIES:
        raise UserError(
            f"config.model.family={model.family!r} is unknown; use one of: {', '.join(FAMILIES)}."
        )
    _check_blocks(model)
    adapts = lora is not None and bool(lora.rank)
    fields = vars(model) | {
        "vocab": vocab,
        "attention": _choose_attention(model.attention, platform),
        "scan_unroll": _choose_unroll(model),
    }
    shape = Shape(
        **fields,
        barriers=platform == "cpu",
        separate_kernels=platform in ("cuda", "gpu"),
        adapter_scale=lora.alpha / lora.rank if adapts else 0.0,
        rows=rows,
    )
    denoiser, denoiser_with_kv = Denoiser(shape), Denoiser(shape, return_kv=True)
    head = ThresholdHead(threshold)

    def init(key):
        row, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
        features = jnp.zeros((1, model.width), jnp.float32)
        return {
            "denoiser": denoiser.init(key, row, mask, method="initialise")["params"],
            "threshold": head.init(key, features)["params"],
        }

    def init_adapter(key):
        shapes = jax.eval_shape(init, key)["denoiser"]
        return lora_lib.init(key, shapes, lora)

    state_head = StateHead(state or StateHeadConfig(), places)

    def init_state_head(key):
        return state_head_lib.init(state_head, key, model.width)

    def judge(params: Params, seen):
        return state_head.apply({"params": params["state_head"]}, seen)

    def token_logits(params: Params, states, tokens):
        return denoiser.apply({"params": params["denoiser"]}, states, tokens, method="token_logits")

    def variables(params: Params) -> dict[str, Params]:
        names = {"params": "denoiser", "adapter": "adapter"}
        return {kind: params[name] for kind, name in names.items() if name in params}

    def hidden(params: Params, tokens, mask):
        return denoiser.apply(variables(params), tokens, mask)

    def hidden_and_kv(params: Params, tokens, mask):
        return denoiser_with_kv.apply(variables(params), tokens, mask)

    def hidden_within(params: Params, kv, tokens, mask, start, span: int):
        return denoiser.apply(
            variables(params), kv, tokens, mask, start, span, method="hidden_within"
        )

    def hidden_beside(params: Params, *arrays):
        return denoiser.apply(variables(params), *arrays, method="hidden_beside")

    def hidden_and_kv_beside(params: Params, *arrays):
        return denoiser_with_kv.apply(variables(params), *arrays, method="hidden_beside")

    def hidden_under(params: Params, tokens, mask, causal, theta):
        return denoiser.apply(variables(params), tokens, mask, causal, theta, method="hidden_under")

    def logits(params: Params, states):
        found = denoiser.apply({"params": params["denoiser"]}, states, method="logits")
        if tokens is None or tokens == vocab:
            return found
        return jnp.where(jnp.arange(vocab) < tokens, found, -jnp.inf)

    def gamma_distribution(params: Params, features):
        return head.apply({"params": params["threshold"]}, features)

    return Policy(
        mask_id=mask_id,
        vocab=vocab,
        logit_shift=logit_shift(model),
        init=init,
        hidden=hidden,
        logits=logits,
        threshold=gamma_distribution,
        hidden_and_kv=hidden_and_kv,
        hidden_within=hidden_within,
        attention_block=model.attention_block,
        attention_origin=model.attention_origin,
        hidden_beside=hidden_beside,
        hidden_and_kv_beside=hidden_and_kv_beside,
        hidden_under=hidden_under,
        init_adapter=init_adapter if adapts else None,
        init_state_head=init_state_head,
        judge=judge,
        token_logits=token_logits,
    )


def logit_shift(model: ModelConfig) -> int:
    """1 if position i predicts token i + 1, else 0: the configured shift, or the family's."""
    return FAMILIES[model.family].logit_shift if model.logit_shift is None else model.logit_shift


def _check_blocks(model: ModelConfig) -> None:
    """Raises `UserError` if a family that sees by blocks has none, or others."""
    origin = FAMILIES[model.family].origin
    if origin is None:
        return
    if model.attention_block is None:
        raise UserError(
            f"config.model.attention_block is not set, and networks of family {model.family!r} see "
            "by blocks: set it to the positions of a block, which the model card says."
        )
    if model.attention_origin != origin:
        raise UserError(
            f"config.model.attention_origin={model.attention_origin!r}: family {model.family!r} "
            f"counts blocks from the {origin}. Set it to {origin!r}."
        )


def _choose_unroll(model: ModelConfig) -> int:
    """Blocks per turn of the scan over layers.

    Unrolled blocks run without the loop's overhead, but XLA copies the kernels of all of them at
    each pass (d512, 8 layers, one sequence of 128 on a CPU: 225 ms unrolled, 140 ms not).
    """
    if model.scan_unroll != AUTO:
        return model.scan_unroll
    return model.layers if flops.block_parameters(model) <= _SMALL else 1


def _choose_attention(name: str, platform: str) -> str:
    """The kind for `attention.attend`; raises `UserError` if the platform does not have it."""
    if name == "auto":
        return {"cuda": "cudnn", "cpu": "by_head"}.get(platform, "plain")
    wanted = {
        "cudnn": ("cuda", "NVIDIA GPUs of Ampere (A100) or later"),
        "splash": ("tpu", "TPUs"),
        "plain": (platform, ""),
        "by_head": (platform, ""),
    }
    needed, devices = wanted[name]
    if needed != platform:
        raise UserError(
            f"config.model.attention={name!r} needs {devices}, but this machine has "
            f"{platform} devices: set it to 'auto'."
        )
    return name
