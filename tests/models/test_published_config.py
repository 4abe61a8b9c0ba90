"""Keys of config.json: those that are read, those that are refused, and those of no effect."""

import json

import pytest
import transformers

from diffpo_jax.models import published_config
from diffpo_jax.models.families import FAMILIES
from diffpo_jax.system.errors import UserError

# All keys of LLaDA-8B-Instruct's file, from a public copy, and those that Dream's config class and
# transformers of its time write, with the sizes of Dream-v0-7B.
LLADA = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig"},
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_dropout": 0.0,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "transformers_version": "4.46.3",
    "use_cache": False,
    "vocab_size": 126464,
    "weight_tying": False,
}
DREAM = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig"},
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "Dream",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151643,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.2",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
# Of a conversion of Qwen3-0.6B; head_dim is not the width divided by the heads.
QWEN3 = DREAM | {
    "model_type": "a2d-qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "layer_types": ["full_attention"] * 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}
del QWEN3["use_mrope"]
# Of a conversion of Qwen2.5-Coder-0.5B.
QWEN2 = DREAM | {
    "model_type": "a2d-qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}
# All keys of the files of SDAR-8B-Chat (JetAstra/SDAR, training/model) and of Fast_dLLM_v2_7B.
SDAR = {
    "architectures": ["SDARForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_implementation": "flex_attention",
    "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig"},
    "block_size": 4,
    "bos_token_id": 151643,
    "debug": False,
    "eos_token_id": 151643,
    "ep_size": 1,
    "fuse_cross_entropy": True,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12288,
    "mask_token_id": 151669,
    "max_position_embeddings": 32768,
    "max_window_layers": 36,
    "micro_forward": False,
    "model_type": "sdar",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "skip_checkpoint": False,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.52.4",
    "use_cache": False,
    "use_deepep": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
FAST_DLLM = {
    "architectures": ["Fast_dLLM_QwenForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration.Fast_dLLM_QwenConfig"},
    "bd_size": 32,
    "bos_token_id": 151643,
    "conplemenrary_mask": True,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "layer_types": ["full_attention"] * 28,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "Fast_dLLM_Qwen",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151645,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "vocab_size": 152064,
}
WHOLE = {
    "llada": LLADA,
    "dream": DREAM,
    "a2d_qwen3": QWEN3,
    "a2d_qwen2": QWEN2,
    "open_dcoder": QWEN2 | {"model_type": "qwen2"},
    "sdar": SDAR,
    "fast_dllm_v2": FAST_DLLM,
}
READ = {
    "llada": {
        "width": 4096,
        "layers": 32,
        "heads": 32,
        "kv_heads": 32,
        "ff": 12288,
        "rope_theta": 5e5,
        "norm_eps": 1e-5,
        "vocab": 126464,
        "tied": False,
        "qkv_bias": False,
        "positions": None,
    },
    "dream": {
        "width": 3584,
        "layers": 28,
        "heads": 28,
        "kv_heads": 4,
        "ff": 18944,
        "rope_theta": 1e6,
        "norm_eps": 1e-6,
        "vocab": 152064,
        "tied": False,
        "qkv_bias": True,
        "positions": None,
    },
}
READ = {family: sizes | {"head_dim": None, "qk_norm": False} for family, sizes in READ.items()}
READ["a2d_qwen3"] = READ["dream"] | {
    "width": 1024,
    "heads": 16,
    "kv_heads": 8,
    "head_dim": 128,
    "ff": 3072,
    "vocab": 151936,
    "tied": True,
    "qkv_bias": False,
    "qk_norm": True,
}
READ["a2d_qwen2"] = READ["open_dcoder"] = READ["dream"] | {
    "width": 896,
    "layers": 24,
    "heads": 14,
    "kv_heads": 2,
    "ff": 4864,
    "vocab": 151936,
    "tied": True,
}
READ["sdar"] = READ["a2d_qwen3"] | {
    "width": 4096,
    "layers": 36,
    "heads": 32,
    "ff": 12288,
    "tied": False,
    "attention_block": 4,
    "attention_origin": "prompt",
}
READ["fast_dllm_v2"] = READ["dream"] | {"attention_block": 32, "attention_origin": "prompt"}
FAMILY = pytest.mark.parametrize("family", WHOLE)
DEFAULT = {"rope_theta": 1e6, "rope_type": "default"}


def read(directory, family, values):
    (directory / "config.json").write_text(json.dumps(values))
    return published_config.read_model_config(directory, family)


def refusal(directory, family, values):
    with pytest.raises(UserError) as error:
        read(directory, family, values)
    text = str(error.value)
    assert "\n" not in text
    assert str(directory / "config.json") in text
    return text


@FAMILY
def test_published_files_are_read(tmp_path, family):
    assert read(tmp_path, family, WHOLE[family]) == READ[family]


@pytest.mark.parametrize("kind", [transformers.Qwen2Config, transformers.LlamaConfig])
@pytest.mark.parametrize("whole", [False, True], ids=["saved", "whole"])
def test_files_of_this_version_of_transformers_are_read(tmp_path, kind, whole):
    """As Dream's files, whose config class is like Qwen2's."""
    sizes = {name: DREAM[name] for name in FAMILIES["dream"].settings.values()}
    config = kind(**sizes, dtype="bfloat16")
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    values = (config.to_dict() if whole else saved) | {"model_type": "Dream"}
    assert values["rope_parameters"] == DEFAULT
    assert "rope_theta" not in values
    assert read(tmp_path, "dream", values) == READ["dream"]


@pytest.mark.parametrize("whole", [False, True], ids=["saved", "whole"])
def test_files_of_qwen3_are_read(tmp_path, whole):
    sizes = {name: QWEN3[name] for name in FAMILIES["a2d_qwen3"].settings.values()}
    config = transformers.Qwen3Config(**sizes, tie_word_embeddings=True, dtype="bfloat16")
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    values = (config.to_dict() if whole else saved) | {"model_type": "a2d-qwen3"}
    assert read(tmp_path, "a2d_qwen3", values) == READ["a2d_qwen3"]


@FAMILY
def test_keys_that_do_not_matter_are_ignored(tmp_path, family):
    own = {"use_cache": "?", "_name_or_path": "a/b", "attention_dropout": 0.5, "temperature": 0.3}
    assert read(tmp_path, family, WHOLE[family] | own) == READ[family]


def test_settings_of_a_window_that_is_not_used_are_ignored(tmp_path):
    own = {"sliding_window": 131072, "max_window_layers": 3, "attention_bias": True}
    assert read(tmp_path, "dream", DREAM | own) == READ["dream"]


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("llada", "alibi", True),
        ("llada", "attention_layer_norm", True),
        ("llada", "block_group_size", 4),
        ("llada", "block_type", "sequential"),
        ("llada", "clip_qkv", 8.0),
        ("llada", "include_qkv_bias", True),
        ("llada", "layer_norm_with_affine", False),
        ("llada", "multi_query_attention", True),
        ("llada", "scale_logits", True),
        ("dream", "add_cross_attention", True),
        ("dream", "hidden_act", "gelu"),
        ("dream", "partial_rotary_factor", 0.5),
        ("dream", "quantization_config", {"bits": 4}),
        ("dream", "use_mrope", True),
        ("dream", "use_sliding_window", True),
        ("dream", "head_dim", 64),
        ("a2d_qwen2", "head_dim", 128),
        ("a2d_qwen2", "use_sliding_window", True),
        ("a2d_qwen3", "use_sliding_window", True),
        ("a2d_qwen3", "attention_bias", True),
        ("a2d_qwen3", "rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("dream", "layer_types", ["full_attention"] * 27 + ["sliding_attention"]),
        ("llada", "rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("dream", "rope_scaling", {"type": "yarn", "factor": 4.0}),
        ("dream", "rope_scaling", "default"),
        ("dream", "rope_parameters", {"rope_theta": 1e6, "rope_type": "llama3"}),
        ("dream", "rope_parameters", DEFAULT | {"mrope_section": [16, 24, 24]}),
        ("dream", "rope_parameters", {"full_attention": DEFAULT}),
        # Unknown ones
        ("dream", "final_logit_softcapping", 30.0),
        ("dream", "weight_tying", True),
        ("llada", "hidden_act", "silu"),
        ("llada", "qk_norm", False),
    ],
)
def test_another_network_is_refused_by_the_name_of_its_key(tmp_path, family, key, value):
    text = refusal(tmp_path, family, WHOLE[family] | {key: value})
    assert key in text
    assert text.count(key) == 1
    given = value if isinstance(value, str) else str(value)[:30]
    assert given in text or json.dumps(value)[:30] in text


def test_all_unknown_keys_are_named_with_what_to_do(tmp_path):
    assert refusal(tmp_path, "dream", DREAM | {"new_a": 1, "new_b": None}) == (
        f"{tmp_path / 'config.json'} has keys that are unknown here and may change the network: "
        "new_a=1, new_b=null. Use a local copy of the checkpoint without those that change no "
        "logits."
    )


def test_a_head_width_that_the_sizes_give_is_accepted(tmp_path):
    own = {"head_dim": 128, "layer_types": ["full_attention"] * 28}
    assert read(tmp_path, "dream", DREAM | own) == READ["dream"]


@pytest.mark.parametrize("name", ["rope_parameters", "rope_scaling"])
def test_the_base_of_the_rotary_embedding_is_read_wherever_it_is(tmp_path, name):
    nested = {key: value for key, value in DREAM.items() if key != "rope_theta"}
    own = {"rope_theta": 5000.0, "rope_type": "default"}
    assert read(tmp_path, "dream", nested | {name: own})["rope_theta"] == 5000.0
    both = DREAM | {name: own | {"rope_theta": 1000000}}
    assert read(tmp_path, "dream", both) == READ["dream"]
    assert read(tmp_path, "dream", DREAM | {name: {"type": "default"}}) == READ["dream"]
    text = refusal(tmp_path, "dream", DREAM | {name: own})
    assert f"rope_theta=1e+06 and {name}.rope_theta=5000, which contradict" in text
    assert "lacks rope_theta" in refusal(tmp_path, "dream", nested)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "3584"),
        ("hidden_size", 3584.0),
        ("num_hidden_layers", 300_000),
        ("num_hidden_layers", True),
        ("num_attention_heads", 0),
        ("num_attention_heads", None),
        ("vocab_size", 10**12),
        ("intermediate_size", [1]),
        ("rope_theta", "1e6"),
        ("rope_theta", 0),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", False),
        ("tie_word_embeddings", "false"),
        ("tie_word_embeddings", None),
    ],
)
def test_values_of_another_type_are_refused(tmp_path, key, value):
    text = refusal(tmp_path, "dream", DREAM | {key: value})
    assert f"{key} must be" in text
    assert f"it is {value!r}." in text


def test_as_many_key_heads_as_heads_may_be_null(tmp_path):
    assert read(tmp_path, "llada", LLADA | {"n_kv_heads": None}) == READ["llada"]


@pytest.mark.parametrize("text", ["[1]", "3", "{", '"x"', "[" * 10**5])
def test_files_that_hold_no_object_are_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json (must hold a JSON object|is not JSON)"):
        published_config.read_model_config(tmp_path, "dream")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_key_is_in_two_tables(family):
    known = FAMILIES[family]
    read_keys = {*known.settings.values(), known.tying}
    tables = read_keys, known.supported.keys(), set(known.ignored) - {"model_type"}
    for i, one in enumerate(tables):
        for other in tables[i + 1 :]:
            assert not set(one) & set(other)
    # What an export writes is read again.
    assert known.marks.keys() <= {"model_type"} | known.supported.keys()
