"""DiFFPO on GSM8K: grade-school word problems.

    python -m diffpo_jax.main --config=configs/gsm8k.py --workdir=runs/gsm8k \
        --config.task.train_file=rows.jsonl --config.task.test_file=rows.jsonl

Without the two files it reads openai/gsm8k from the Hugging Face hub.

Hardware: tiny runs on a CPU. llada_8b is set for 8 accelerators (mesh.fsdp=8). By docs/plan.md
  all of LLaDA-8B trains on 4 or 8 chips of TPU v5p or 16 of v6e, an adapter (lora) also on 16 chips
  of v5e, with a prompt of 512 tokens.
Time: not measured.
Score: not measured. No published weights have been run, so there is no accuracy to report.

Presets, as in --config=configs/gsm8k.py:tiny ; several are separated by commas: llada_8b,lora
  default   the same as tiny
  tiny      a character model that writes the bare answer, for a few rows of your own: the whole
            way from file to report in minutes on a CPU; its numbers mean nothing
  llada_8b  LLaDA-8B-Instruct with published settings
  dream_7b  the same for Dream-v0-Instruct-7B
  qwen3_0_6b  the same for a conversion of Qwen3-0.6B, on one GPU; see docs/models.md
  qwen2_5_coder_0_5b  of Qwen2.5-Coder-0.5B-Instruct
  open_dcoder_0_5b  Open-dCoder
  qwen3_0_6b_from_ar  Qwen3-0.6B-Base, made a diffusion model by SFT first; see docs/models.md
  qwen2_5_0_5b_from_ar  Qwen2.5-0.5B in the same way
  qwen3_0_6b_bd  block diffusion: a conversion of Qwen3-0.6B, on one GPU; see docs/models.md
  sdar_1_7b  SDAR-1.7B-Chat, on one GPU
  sdar_8b   SDAR-8B-Chat; needs accelerators
  fast_dllm_v2_7b  Fast-dLLM v2 7B; needs accelerators
With any: lora, t4, s1k, d1, dream, d2, gspo, justgrpo, lightning, trace, prompt, paper, state; see
diffpo_jax/config/presets.py.
d1's whole published protocol is llada_8b,d1 with its prompt text given by
--config.task.prompt.template=@FILE .
"""

import string

import ml_collections

from diffpo_jax.config import Config, convert, presets


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the configuration of a preset."""
    config = convert.as_config_dict(Config())
    config.task.name = "gsm8k"
    if not SIZES.keys() & preset.split(","):
        _tiny(config)
    return presets.apply(config, preset, SIZES, "configs/gsm8k.py")


def _tiny(config: ml_collections.ConfigDict) -> None:
    presets.characters(config)
    config.tokenizer.alphabet = string.printable[:95] + "\n\u2018\u2019\u201c\u201d\u2013\u2014£€"


SIZES = {"tiny": _tiny, **presets.published(answer="tags", prompt_length=512)}
