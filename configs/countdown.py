"""DiFFPO on Countdown: reach a target with three numbers from 1 to 20, written as an expression.

    python -m diffpo_jax.main --config=configs/countdown.py --workdir=runs/countdown

A prompt is "13,5,2=39", its completion "13*(5-2)" followed by the end of text.  The base is shown
answers to 2,000 instances; RL has 30,000 without answers.

Hardware: two CPU cores (AMD EPYC).
Time: 6 and a half minutes; base 1.5, RL 4, evaluation 0.5.  Beside other jobs 13 to 18.
Score: accuracy@calls on 768 held-out instances at price 0.3, seeds and data seeds 3, 4 and 5:
  33.5 %@1.60, 37.2 %@1.20 and 35.2 %@1.65; the base under its best fixed rule 3.4, 3.6 and 5.2 %
  there, and 17.4, 23.3 and 22.8 % at best, in 8 to 9 calls (docs/results.md).

Presets, as in --config=configs/countdown.py:smoke ; several are separated by commas: smoke,d1
  default   the main job: a character model that trains on a few cores
  nine      numbers from 1 to 9, few instances, and answers to all of them for the base
  four      nine with four numbers in place of three
  blocks    nine with attention by blocks of 4 positions and an exact cache; see docs/method.md
  smoke     a tiny model on numbers up to 5, in about a minute; to try things out
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
    config.task.name = "countdown"
    config.tokenizer.alphabet = "0123456789+-*/()=,"
    config.sampler.stop_at_end = True
    config.model.positions = "auto"
    # 8,400 different training instances, so many that RL does not learn them by heart.  The base is
    # shown answers to a few, and more steps on these make it no better.  More answers nobody writes
    # down, but anyone can check them.
    config.task.countdown.number_max = 20
    config.pretrain.demonstrations.count = 2_000
    config.pretrain.steps, config.pretrain.warmup, config.pretrain.decay = 800, 50, "linear"
    presets.joint_by_state(config)
    # Without the KL the rollouts of ever fewer prompts differ, and learning stops.
    config.rl.steps, config.rl.objective.kl = 400, 0.02
    # At a price of 1 a call is worth an eleventh of an answer, and the base solves 20 %.
    config.sampler.price = 0.3
    config.evaluation.examples = config.evaluation.validation_examples = None
    config.evaluation.every = config.checkpoint.every = 50
    return presets.apply(config, preset, SIZES, "configs/countdown.py")


def nine(config: ml_collections.ConfigDict) -> None:
    """Few instances, numbers from 1 to 9, with answers to all training instances for the base."""
    config.task.countdown.number_max = 9
    config.pretrain.demonstrations.count, config.pretrain.steps = None, 1_200
    config.rl.steps, config.rl.objective.kl, config.evaluation.every = 150, 0.0, 20


def four(config: ml_collections.ConfigDict) -> None:
    """Four numbers from 1 to 9: 25,000 different training instances."""
    nine(config)
    config.task.countdown.numbers_min = config.task.countdown.numbers_max = 4
    # The base solves 15 % at one token a call, so that a call must cost less.
    config.rl.steps, config.rl.speed.free, config.rl.speed.prices = 300, 0.25, (0.001, 0.4)
    config.sampler.price = 0.03
    config.evaluation.prices = (0.003, 0.01, 0.03, 0.06, 0.1, 0.18, 0.32, 0.6)


def blocks(config: ml_collections.ConfigDict) -> None:
    """Block diffusion on numbers from 1 to 9."""
    nine(config)
    presets.blocks(config)


def smoke(config: ml_collections.ConfigDict) -> None:
    """Instances that a tiny model learns in a minute."""
    nine(config)
    presets.smoke(config)
    instances = config.task.countdown
    instances.number_max, instances.target_max = 5, 15
    config.pretrain.steps = 300


SIZES = {
    "smoke": smoke,
    "nine": nine,
    "four": four,
    "blocks": blocks,
    "study": presets.study(100),
    **presets.published(answer="tags", prompt_length=256),
}
