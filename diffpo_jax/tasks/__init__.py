"""The tasks by name (`config.task.name`).

A new task is one more line in `TASKS`, or a class of the user's, named package.module:Class.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import functions
from diffpo_jax.tasks.countdown import Countdown
from diffpo_jax.tasks.gsm8k import Gsm8k
from diffpo_jax.tasks.jsonl import Jsonl
from diffpo_jax.tasks.math500 import Math500
from diffpo_jax.tasks.own_reward import OwnReward
from diffpo_jax.tasks.sudoku import Sudoku
from diffpo_jax.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "sudoku": Sudoku,
    "countdown": Countdown,
    "gsm8k": Gsm8k,
    "math500": Math500,
    "jsonl": Jsonl,
}


def find_class(name: str) -> type[Task]:
    """Returns the class of the task of this name.

    Raises `UserError` if there is none, or if the user's own cannot be imported.
    """
    if functions.is_function(name):
        return functions.load(name, "config.task.name")
    if name not in TASKS:
        raise UserError(
            f"config.task.name={name!r} is unknown; use one of: {', '.join(TASKS)}; or a class of "
            "your own, package.module:Class."
        )
    return TASKS[name]


def make_task(config: TaskConfig, data_dir: pathlib.Path, metrics: Sequence[str] = ()) -> Task:
    """Makes the task that `config.name` names.

    Raises `UserError` if there is no such task, if it refuses its settings or files, or if a
    function of the user's cannot be imported.

    Args:
      data_dir: the directory of generated data.
      metrics: functions of the user's, `config.evaluation.metrics`.
    """
    own, limits = None, {"limit_s": config.grader_seconds, "processes": config.grader_processes}
    if functions.is_function(config.reward):
        own = functions.Function(config.reward, "config.task.reward", **limits)
        config = dataclasses.replace(config, reward=None)
    others = [functions.Function(x, "config.evaluation.metrics", **limits) for x in metrics]
    task = find_class(config.name)(config, data_dir)
    if not isinstance(task, Task):
        members = [*Task.__annotations__, *(x for x in vars(Task) if not x.startswith("_"))]
        missing = [name for name in members if not hasattr(task, name)]
        raise UserError(
            f"config.task.name={config.name}: the task has no {', '.join(missing)}; see "
            "docs/tasks.md."
        )
    return OwnReward(task, own, others) if own or others else task
