"""DiFFPO on 4x4 Sudoku: 4 to 14 empty cells, any valid completion counts.

    python -m diffpo_jax.main --config=configs/sudoku.py --workdir=runs/sudoku

Hardware: one of two CPU cores (AMD EPYC), the other in use.
Time: 6 to 10 minutes; base 2 to 3, RL 4 to 6, evaluation 0.5 to 1.
Score: accuracy@calls on 1,024 test puzzles at price 1, seeds and data seeds 3, 4 and 5:
  87.5 %@3.38, 82.6 %@3.03 and 85.4 %@3.01; the base under its best fixed rule 65.1, 60.9 and 67.0 %
  there, and 83.8, 77.9 and 79.8 %@16 (docs/results.md).

Presets, as in --config=configs/sudoku.py:smoke ; several are separated by commas: smoke,d1
  default   the main job
  blocks    attention by blocks of 4 positions, with an exact cache; see docs/method.md
  smoke     a tiny model on puzzles of 1 to 4 empty cells, in about a minute; to try things out
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
    config.model.positions = "auto"
    # The base is shown answers to a few easy puzzles.  More and harder ones nobody writes down;
    # whether an answer is right, anyone can check, and RL is on 30,000 puzzles of all kinds.
    config.pretrain.steps, config.pretrain.decay = 480, "linear"
    shown = config.pretrain.demonstrations
    shown.difficulty, shown.count = (4.0, 7.0), 2_000
    presets.joint_by_state(config)
    # Prompts are drawn by how often their number of empty cells gives right and wrong rollouts.
    config.rl.candidates, config.sampler.temperature = 4, 0.7
    # A prompt that no rollout solves would teach the denoiser to fail in fewer calls.
    config.rl.objective.drop_unsolved = True
    return presets.apply(config, preset, SIZES, "configs/sudoku.py")


def smoke(config: ml_collections.ConfigDict) -> None:
    """Puzzles that a tiny model learns in a minute."""
    presets.smoke(config)
    config.task.sudoku.blanks_min, config.task.sudoku.blanks_max = 1, 4


SIZES = {
    "smoke": smoke,
    "blocks": presets.blocks,
    "study": presets.study(80),
    **presets.published(answer="tags", prompt_length=512),
}
