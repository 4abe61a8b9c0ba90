"""The tasks, by the name that `config.task.name` gives.  A new task is one more line here."""

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
    """The task that `config.name` asks for.

    Args:
      config: the task's section of the configuration.
      data_dir: where tasks keep data that they generate.

    Raises:
      UserError: an unknown name, or what the task says about its settings and files.
    """
    if config.name not in TASKS:
        raise UserError(
            f"config.task.name={config.name!r} is unknown; use one of: {', '.join(TASKS)}."
        )
    return TASKS[config.name](config, data_dir)
