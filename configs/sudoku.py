"""DiFFPO on 4x4 Sudoku: 4 to 14 empty cells, any valid completion counts.

    python -m diffpo_jax.main --config=configs/sudoku.py --workdir=runs/sudoku

Presets, as in --config=configs/sudoku.py:smoke , or several: --config=configs/sudoku.py:smoke,d1
  default   the main job
  smoke     the same stages in about a minute, for trying things out; its numbers mean nothing
  study     at most about five minutes on a core after the base model: one run of many
  llada_8b  LLaDA-8B-Instruct with published settings
  dream_7b  the same of Dream-v0-Instruct-7B
With any of them: lora, s1k, d1, d2, gspo, justgrpo, paper; see diffpo_jax/config/presets.py .
"""

import ml_collections

from diffpo_jax.config import Config, convert, presets


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a preset."""
    config = convert.as_config_dict(Config())
    config.model.positions = config.sampler.prompt_length + config.sampler.length
    # The recipe of docs/recipe.md: a base that solves most puzzles one cell a call, rates that come
    # down to 0, no importance weights; the preset paper has those.
    config.pretrain.steps, config.pretrain.decay = 240, "linear"
    config.method, config.rl.steps = "diffpo_no_is", 150
    config.rl.optimizer.denoiser_lr, config.rl.optimizer.decay = 1e-4, "linear"
    # Small enough for a core's cache: on CPUs the gradient takes 2/3 of the time of one piece.
    config.pretrain.micro_batch = config.rl.micro_batch = 64
    return presets.apply(config, preset, SIZES, "configs/sudoku.py")


SIZES = {
    "smoke": presets.smoke,
    "study": presets.study(60),
    **presets.published(answer="tags", prompt_length=512),
}
