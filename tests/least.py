"""A run with all its stages, as small as it comes: overrides of configs/sudoku.py:smoke."""

LEAST = {
    "model.width": 16,
    "model.layers": 1,
    "model.ff": 16,
    "pretrain.steps": 3,
    "rl.steps": 2,
    "rl.prompts": 4,
    "rl.group": 2,
    "rl.micro_batch": 4,
    "task.sudoku.train_examples": 64,
    "task.sudoku.validation_examples": 16,
    "task.sudoku.test_examples": 16,
    "evaluation.gammas": (0.1, 1.0),
    "evaluation.batch": 16,
    "evaluation.every": 1,
    "checkpoint.every": 1,
    "logging.samples_every": 1,
}
