"""Keys of published config.json files that need a value that we support, and keys of any value.

`Family.settings` and `Family.tying` name the keys that are read.  A key that is neither read nor in
these tables is refused by `published_config`, because it may change the network.
"""

# Keys that change the network, and their values in networks that the denoiser computes.
TRANSFORMERS_SUPPORTED = {
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "is_encoder_decoder": (False,),
    "partial_rotary_factor": (None, 1),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
    "tie_encoder_decoder": (False,),
}
LLADA_SUPPORTED = TRANSFORMERS_SUPPORTED | {
    "activation_type": ("silu",),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "bias_for_layer_norm": (False, None),  # None: as include_bias
    "block_group_size": (1,),
    "block_type": ("llama",),
    "clip_qkv": (None,),
    "include_bias": (False,),
    "input_emb_norm": (False,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "multi_query_attention": (None, False),
    "rope": (True,),
    "scale_logits": (False,),
}
DREAM_SUPPORTED = TRANSFORMERS_SUPPORTED | {
    "hidden_act": ("silu",),
    "mlp_bias": (False, None),
    "use_mrope": (False, None),
    "use_sliding_window": (False, None),
}

QWEN3_SUPPORTED = DREAM_SUPPORTED | {"attention_bias": (False, None)}

# Keys that change no logits, of any value.
_NAMES = {
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "auto_map",
    "custom_pipelines",
    "finetuning_task",
    "id2label",
    "label2id",
    "model_type",  # one of `Family.marks`
    "name_or_path",
    "num_labels",
    "prefix",
    "problem_type",
    "task_specific_params",
    "tokenizer_class",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
}
# Only `config.tokenizer` names special tokens here.
_TOKENS = {
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "mask_token_id",
    "pad_token_id",
    "sep_token_id",
}
# How the published code computes and what it returns: the same up to rounding, and
# `config.model.dtype` decides the rounding here.
_COMPUTATION = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "attn_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "gradient_checkpointing",
    "is_decoder",  # attention sees all tokens all the same
    "output_attentions",
    "output_hidden_states",
    "pretraining_tp",
    "return_dict",
    "tf_legacy_loss",
    "torch_dtype",
    "torchscript",
    "use_bfloat16",
    "use_cache",
}
# Dropout and initial values matter in training elsewhere; adapters and SFT here drop nothing.
_TRAINING = {"attention_dropout", "initializer_range"}
# Settings of an autoregressive `generate`, which older versions of transformers write here.
_GENERATION = {
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
}
TRANSFORMERS_IGNORED = frozenset(_NAMES | _TOKENS | _COMPUTATION | _TRAINING | _GENERATION)
LLADA_IGNORED = TRANSFORMERS_IGNORED | {
    "alibi_bias_max",  # without alibi
    "attention_layer_norm_with_affine",  # without attention_layer_norm
    "embedding_dropout",
    "flash_attention",
    "init_cutoff_factor",
    "init_device",
    "init_fn",
    "init_std",
    "max_sequence_length",  # the length of tables of angles; there are none here
    "mlp_ratio",  # mlp_hidden_size is read
    "precision",
    "residual_dropout",
    "rope_full_precision",  # rounding of angles; they are float32 here
    "tie_word_embeddings",  # LLaDA's code reads weight_tying
    "vocab_size",  # embedding_size is read, the rows that there are
}
DREAM_IGNORED = TRANSFORMERS_IGNORED | {
    # The code of Dream and of Qwen2 ignores it, and biases are checked against the tensors.
    "attention_bias",
    "max_position_embeddings",  # the length of tables of angles; there are none here
    "max_window_layers",  # without use_sliding_window
    "sliding_window",  # without use_sliding_window
}
QWEN3_IGNORED = DREAM_IGNORED - {"attention_bias"}
# How SDAR's and Fast-dLLM v2's code trains them and spreads them over devices.
SDAR_IGNORED = QWEN3_IGNORED | {
    "debug",
    "ep_size",
    "fuse_cross_entropy",
    "micro_forward",
    "skip_checkpoint",
    "use_deepep",
}
FAST_DLLM_IGNORED = DREAM_IGNORED | {"conplemenrary_mask"}  # spelt so
