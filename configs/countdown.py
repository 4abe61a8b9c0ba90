"""DiFFPO on Countdown: reach a target with three numbers from 1 to 9, written as an expression.

    python -m diffpo_jax.main --config=configs/countdown.py --workdir=runs/countdown

The prompt is "3,5,2=9", the completion "3*(5-2)" and the end of the text.

Presets, as in --config=configs/countdown.py:smoke :
  default  the main job: a character model that trains on a few cores
  smoke    the same stages in about a minute, for trying things out; its numbers mean nothing
"""

import ml_collections

from diffpo_jax import config_io
from diffpo_jax.config import Config
from diffpo_jax.errors import UserError


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a preset."""
    config = config_io.as_config_dict(Config())
    config.task.name = "countdown"
    config.tokenizer.alphabet = "0123456789+-*/()=,"
    # "9,9,9=50", and "(1+2)*3" with an end of text: eight characters each.
    config.sampler.prompt_length = config.sampler.length = config.sampler.block_length = 8
    config.sampler.steps = 8
    config.sampler.stop_at_end = True
    config.model.positions = config.sampler.prompt_length + config.sampler.length
    config.pretrain.steps, config.pretrain.warmup = 1_200, 50
    # As many tokens a piece as in configs/sudoku.py: small enough for a core's cache.
    config.pretrain.micro_batch = config.rl.micro_batch = 128
    config.evaluation.examples = config.evaluation.validation_examples = 0
    config.checkpoint.every = 50
    if preset == "default":
        return config
    if preset == "smoke":
        return _smoke(config)
    raise UserError(f"configs/countdown.py has no preset {preset!r}: default, smoke.")


def _smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config.model.width, config.model.layers, config.model.ff = 32, 2, 64
    config.model.heads = config.model.kv_heads = 2
    config.task.countdown.train_examples = 512
    config.task.countdown.validation_examples = config.task.countdown.test_examples = 64
    config.pretrain.steps, config.pretrain.batch, config.pretrain.micro_batch = 12, 32, 0
    config.rl.steps, config.rl.prompts, config.rl.group, config.rl.micro_batch = 8, 8, 4, 16
    config.rl.inner_updates = 2
    config.evaluation.gammas = (0.0, 0.1, 1.0)
    config.evaluation.batch, config.evaluation.every = 64, 4
    config.checkpoint.every = 3
    config.logging.samples_every = 4
    return config
