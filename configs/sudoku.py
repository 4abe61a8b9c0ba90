"""DiFFPO on 4x4 Sudoku: 4 to 14 empty cells, any valid completion counts.

    python -m diffpo_jax.main --config=configs/sudoku.py --workdir=runs/sudoku

Hardware: two CPU cores (AMD EPYC) that other jobs shared.
Time: 14 minutes of CPU time in all; 39 minutes by the clock under that load.
Score: accuracy@calls on 1,024 test puzzles, seed 0: base 99.2 %@16.0 and 96.1 %@5.5 (interpolated),
  trained with its learned threshold 96.9 %@5.5: a gain of +0.8 points (95 % interval -0.6 to +2.2).
  docs/recipe.md has more seeds.

Presets, as in --config=configs/sudoku.py:smoke ; several are separated by commas: smoke,d1
  default   the main job
  smoke     the same stages at a tiny size, to try things out; its numbers mean nothing
  study     a run of at most about five minutes on a core, after the base model; for studies
  llada_8b  LLaDA-8B-Instruct with published settings; needs accelerators, see docs/plan.md
  dream_7b  the same for Dream-v0-Instruct-7B
With any: lora, s1k, d1, d2, gspo, justgrpo, prompt, paper, state; see diffpo_jax/config/presets.py.
"""

import ml_collections

from diffpo_jax.config import Config, convert, presets


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the configuration of a preset."""
    config = convert.as_config_dict(Config())
    config.model.positions = config.sampler.prompt_length + config.sampler.length
    # The base is shown answers to easy puzzles alone.  Those to hard ones nobody gives; whether an
    # answer is right, anyone can check, and RL is on all puzzles.
    config.pretrain.steps, config.pretrain.decay = 480, "linear"
    config.pretrain.demonstrations.difficulty = (4.0, 7.0)
    presets.joint_by_state(config)
    # Prompts are drawn by how often their number of empty cells gives right and wrong rollouts.
    config.rl.candidates, config.sampler.temperature = 4, 0.7
    return presets.apply(config, preset, SIZES, "configs/sudoku.py")


SIZES = {
    "smoke": presets.smoke,
    "study": presets.study(60, pretraining=240),
    **presets.published(answer="tags", prompt_length=512),
}
