"""DiFFPO on 4x4 Sudoku: 4 to 14 empty cells, any valid completion counts.

    python -m diffpo_jax.main --config=configs/sudoku.py --workdir=runs/sudoku

Presets, as in --config=configs/sudoku.py:smoke , or several: --config=configs/sudoku.py:smoke,d1
  default  the main job
  smoke    the same stages in about a minute, for trying things out; its numbers mean nothing
  d1, d2, gspo, justgrpo, paper
           other algorithms; see diffpo_jax/presets.py
"""

import ml_collections

from diffpo_jax import config_io, presets
from diffpo_jax.config import Config


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a preset."""
    config = config_io.as_config_dict(Config())
    config.model.positions = config.sampler.prompt_length + config.sampler.length
    # Small enough for a core's cache: on CPUs the gradient takes 2/3 of the time of one piece.
    config.pretrain.micro_batch = config.rl.micro_batch = 64
    return presets.apply(config, preset, {"smoke": _smoke}, "configs/sudoku.py")


def _smoke(config: ml_collections.ConfigDict) -> None:
    config.model.width, config.model.layers, config.model.ff = 32, 2, 64
    config.model.heads = config.model.kv_heads = 2
    config.task.sudoku.train_examples = 512
    config.task.sudoku.validation_examples = 64
    config.task.sudoku.test_examples = 64
    config.pretrain.steps, config.pretrain.batch, config.pretrain.micro_batch = 12, 32, 0
    config.rl.steps, config.rl.prompts, config.rl.group, config.rl.micro_batch = 8, 8, 4, 16
    config.rl.inner_updates = 2
    config.evaluation.gammas = (0.0, 0.1, 1.0)
    config.evaluation.batch, config.evaluation.every = 64, 4
    config.checkpoint.every = 3
    config.logging.samples_every = 4
