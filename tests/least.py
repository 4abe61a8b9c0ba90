"""Small runs that have all stages, as overrides of configs/sudoku.py:smoke."""

import pathlib
import sys

from diffpo_jax.config import convert

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from configs import sudoku

# A few steps of each stage.
SHORT = {
    "task.sudoku.blanks_min": 4,
    "task.sudoku.blanks_max": 14,
    "task.sudoku.train_examples": 512,
    "task.sudoku.validation_examples": 64,
    "task.sudoku.test_examples": 64,
    "pretrain.steps": 12,
    "pretrain.batch": 32,
    "rl.steps": 8,
    "rl.prompts": 8,
    "evaluation.batch": 64,
    "evaluation.every": 4,
    "checkpoint.every": 3,
    "logging.samples_every": 4,
}
# The smallest run.
LEAST = SHORT | {
    "model.width": 16,
    "model.layers": 1,
    "model.ff": 16,
    "pretrain.steps": 3,
    "pretrain.demonstrations.difficulty": None,
    "pretrain.demonstrations.count": None,
    "sampler.rule": "entropy_bounded",
    "sampler.temperature": 0.5,
    "rl.optimizer.denoiser_lr": 1e-4,
    "rl.steps": 2,
    "rl.prompts": 4,
    "rl.group": 2,
    "rl.inner_updates": 1,  # a second would compile two more programs: old scores, and an update
    "rl.micro_batch": 4,
    "task.sudoku.train_examples": 64,
    "task.sudoku.validation_examples": 16,
    "task.sudoku.test_examples": 16,
    "evaluation.gammas": (0.1, 1.0),
    "evaluation.batch": 16,
    "evaluation.base_rules": (),  # each compiles a program
    "evaluation.every": 1,
    "checkpoint.every": 1,
    "logging.samples_every": 1,
}


def least(**overrides):
    """The configuration of the smallest run, with overrides."""
    values = sudoku.get_config("smoke")
    values.update_from_flattened_dict(LEAST | overrides)
    return convert.from_config_dict(values)
