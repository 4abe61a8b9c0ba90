"""The tasks by name (`config.task.name`).  A new task is one more line in `TASKS`."""

import pathlib
from collections.abc import Callable

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.countdown import Countdown
from diffpo_jax.tasks.gsm8k import Gsm8k
from diffpo_jax.tasks.math500 import Math500
from diffpo_jax.tasks.sudoku import Sudoku
from diffpo_jax.tasks.task import Task

TASKS: dict[str, Callable[[TaskConfig, pathlib.Path], Task]] = {
    "sudoku": Sudoku,
    "countdown": Countdown,
    "gsm8k": Gsm8k,
    "math500": Math500,
}


def make_task(config: TaskConfig, data_dir: pathlib.Path) -> Task:
    """Makes the task that `config.name` names.

    Raises `UserError` if there is no such task, or if it refuses its settings or files.

    Args:
      data_dir: the directory of generated data.
    """
    if config.name not in TASKS:
        raise UserError(
            f"config.task.name={config.name!r} is unknown; use one of: {', '.join(TASKS)}."
        )
    return TASKS[config.name](config, data_dir)
