"""DiFFPO on rows of your own: no code, or a grader and a reward of your own.

    python -m diffpo_jax.main --config=configs/jsonl.py --workdir=runs/mine \
        --config.task.train_file=mine.jsonl --config.task.jsonl.grader=number

Each row has a question and an answer; config.task.jsonl names their columns and the grader.
docs/tasks.md goes through an example.  The alphabet is that of the rows.

Hardware: one of two CPU cores (AMD EPYC), the other in use.
Time: 3 to 4 minutes of processor time for the example of docs/tasks.md: 5,000 rows, two layers.
Score: accuracy@calls on the 533 test rows of this example at price 1: 96.2 %@2.39, the base 11.5 %
  there and 100 %@4.92; one seed.

Presets, as in --config=configs/jsonl.py:smoke ; several are separated by commas: smoke,d1
  default   a character model that is trained from scratch, for short questions and answers
  smoke     the same stages with a tiny model, in about a minute; to try things out
  study     the paper's sampler, in a run of a few minutes on a core; for studies
  llada_8b  LLaDA-8B-Instruct with published settings; needs accelerators, see docs/plan.md
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
"""

import ml_collections

from diffpo_jax.config import Config, convert, presets


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the configuration of a preset."""
    config = convert.as_config_dict(Config())
    config.task.name = "jsonl"
    config.tokenizer.alphabet = None
    # Short questions and answers; a longer one is refused with its length.
    config.sampler.prompt_length = config.sampler.length = 16
    config.sampler.stop_at_end, config.model.positions = True, "auto"
    config.pretrain.steps, config.pretrain.decay = 240, "linear"
    presets.joint_by_state(config)
    config.rl.steps = 60
    return presets.apply(config, preset, SIZES, "configs/jsonl.py")


SIZES = presets.any_task()
