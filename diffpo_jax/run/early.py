"""Checks of a command's inputs that need no jax, whose import takes seconds.

They find the usual mistakes at once.  What they let pass is checked again where it is used.
"""

import math
import pathlib
from collections.abc import Sequence

from diffpo_jax.config import DIALS, Config, TaskConfig, check
from diffpo_jax.evaluation import threshold_choice
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import layout


def check_run(config: Config, path: str, *, overwrite: bool = False) -> None:
    """Raises `UserError` if a run of this configuration cannot start in a workdir."""
    layout.check_path(path)
    files.check_target(path, "--workdir", directory=True)
    workdir = layout.Workdir(pathlib.Path(path))
    if not config.model.weights:  # whose sizes are read later
        check.check_training(config)
        if not overwrite:
            layout.check_same_run(workdir, config)
    check_inputs(config, workdir.data)


def check_inputs(config: Config, data: pathlib.Path) -> None:
    """Raises `UserError` if there is no run in `config.init_from`, or for the task."""
    list(layout.origins(config))
    check_task(config.task, data)


def check_task(config: TaskConfig, data: pathlib.Path) -> None:
    """Raises `UserError` for the settings of a task, and for its files unless the hub has them."""
    from diffpo_jax import tasks
    from diffpo_jax.tasks.datasets import hub

    if all(hub.is_local(x) for x in (config.train_file, config.test_file) if x):
        tasks.make_task(config, data)


def check_export(workdir: str, out: str) -> None:
    """Raises `UserError` if a workdir holds no run, or `out` exists or cannot be made."""
    layout.read_config(layout.Workdir(pathlib.Path(workdir)))
    if pathlib.Path(out).exists():
        raise UserError(f"{out} exists already: choose another directory, or remove it.")
    files.check_target(out, "--out", directory=True)


def check_completions(
    config: Config, workdir: str, texts: list[str], model: str, dial: float | None
) -> None:
    """Raises `UserError` if a run cannot complete these prompts with this sampler.

    Args:
      model: "trained" or "base".
    """
    check_dial(config, dial)
    run = layout.read_config(layout.Workdir(pathlib.Path(workdir)))
    threshold_choice.check_head(run, config.sampler.rule, model)
    for number, text in enumerate(texts, 1):
        if fault := prompt_fault(run.task, text):
            raise UserError(f"--prompt: prompt {number} {fault}.")


def prompt_fault(config: TaskConfig, text: str) -> str:
    """What keeps a text from being a prompt of a run of this task; "" if nothing does."""
    if not text.strip():
        return "is empty"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "is not UTF-8"
    # What a bare question must look like the task knows; other templates may have any text.
    plain = config.prompt.template == "{question}"
    fault_of = getattr(_class_of_task(config), "question_fault", None) if plain else None
    return fault_of(text, config) if fault_of else ""


def check_served(config: Config, workdir: str, names: Sequence[str]) -> None:
    """Raises `UserError` if a run has no checkpoint of one of its models, or none for this rule.

    Args:
      names: "trained", "base" or both.
    """
    paths = layout.Workdir(pathlib.Path(workdir))
    run = layout.read_config(paths)
    if "trained" in names:
        threshold_choice.check_head(run, config.sampler.rule, "trained")
        if not paths.rl.is_dir():
            raise UserError(
                f"no checkpoints in {paths.rl}: the run has no trained model yet. Serve what it "
                "began from with --model=base, or run `main` first."
            )


def _class_of_task(config: TaskConfig) -> type:
    from diffpo_jax import tasks

    return tasks.find_class(config.name)


def check_dial(config: Config, dial: float | None) -> None:
    """Raises `UserError` if the dial is out of range for the commit rule."""
    if dial is not None and (fault := dial_fault(config, dial)):
        raise UserError(f"--dial={dial:g} {fault}.")


def dial_fault(config: Config, dial: float) -> str:
    """What keeps a number from being the commit rule's dial; "" if nothing does."""
    name, blocks = DIALS[config.sampler.rule], config.sampler.length // config.decoder.block_length
    if math.isnan(dial) or dial < 0:
        return "must be a number and not negative"
    if name == "steps" and (dial < 1 or dial % blocks):
        return f"must be a multiple of the {blocks} blocks: it is a number of calls"
    if name == "confidence" and dial > 1:
        return "must be a probability: the rule is 'confidence'"
    return ""
