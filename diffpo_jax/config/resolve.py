"""Fills in the fields that follow from others, so that the rest of the code finds plain values."""

import functools
import pathlib
from typing import Any

from diffpo_jax.config import AUTO, METHODS, RANKINGS, Config
from diffpo_jax.config.values import replace_field
from diffpo_jax.system import reading
from diffpo_jax.system.errors import UserError

# Fields that may name a file, "@FILE".
_TEMPLATES = (
    "task.prompt.template",
    "task.jsonl.question",
    "task.jsonl.answer",
    "pretrain.demonstrations.prompt",
    "pretrain.demonstrations.answer",
)
_MOST_TEMPLATE = 2**20  # bytes of a file; it becomes a part of every prompt
_LENGTHS = ("sampler.prompt_length", "sampler.length")
# Fields that may be given as a share of the completion's length.
_SHARES = ("sampler.block_length", "sampler.steps", "evaluation.block_length")


def resolve(config: Config) -> Config:
    """The configuration with every field filled in that follows from others.

    Raises:
      UserError: a template's file cannot be read, or lengths are missing and do not follow from the
        task.
    """
    return resolve_lengths(resolve_templates(resolve_rule(resolve_method(config))))


def resolve_method(config: Config) -> Config:
    """Fills in the fields that the method decides and that are None."""
    for name, value in _of_method(config).items():
        if _get(config, name) is None:
            config = replace_field(config, name, value)
    return config


def resolve_rule(config: Config) -> Config:
    """Fills in the commit rule's first ranking if the ranking is None."""
    ranking = config.sampler.ranking or RANKINGS[config.sampler.rule][0]
    return replace_field(config, "sampler.ranking", ranking)


def resolve_lengths(config: Config) -> Config:
    """Fills in the lengths of prompts and completions, and the sizes that follow from them.

    Raises:
      UserError: a length is None and does not follow from the task.
    """
    # 1. Lengths: those of the task's longest texts.
    for name, characters in zip(_LENGTHS, _characters(config) or (None, None)):
        if _get(config, name) is None:
            if characters is None:
                raise UserError(
                    f"config.{name} is not set. It follows from the task only for sudoku and "
                    "countdown with their bare question, and with config.tokenizer.name=char. Set "
                    f"{' and '.join(f'config.{other}' for other in _LENGTHS)}, in tokens."
                )
            config = replace_field(config, name, characters)
    # 2. Sizes that are given as a share of the completion's length.
    length = config.sampler.length
    sizes = {"length": length, "half": max(1, length // 2)}
    for name in _SHARES:
        value = _get(config, name)
        config = replace_field(config, name, sizes.get(value, value))
    # 3. What follows from these.
    if config.evaluation.steps == "rollouts":
        config = replace_field(config, "evaluation.steps", (config.sampler.steps,))
    if config.model.positions == AUTO:
        rows = (config.sampler.prompt_length, length), config.demonstration_lengths
        config = replace_field(config, "model.positions", max(map(sum, rows)))
    return config


def resolve_templates(config: Config) -> Config:
    """Replaces each template "@FILE" by the file's text, so that a run keeps its prompts.

    Raises:
      UserError: a file cannot be read.
    """
    for name in _TEMPLATES:
        template = _get(config, name)
        if template.startswith("@"):
            text = _read_template(template, f"config.{name}={template}")
            config = replace_field(config, name, text)
    return config


def unresolve(config: Config) -> Config:
    """Undoes what another method, rule or length would decide otherwise."""
    for name, value in _of_method(config).items():
        if _get(config, name) == value:
            config = replace_field(config, name, None)
    if config.sampler.ranking == RANKINGS[config.sampler.rule][0]:
        config = replace_field(config, "sampler.ranking", None)
    for name in _SHARES:
        if _get(config, name) == config.sampler.length:
            config = replace_field(config, name, "length")
    return config


def _of_method(config: Config) -> dict[str, Any]:
    """The fields that the method decides, by dotted name, and its values."""
    fields = METHODS[config.method].items()
    likelihood = config.rl.likelihood
    return {
        f"rl.{'likelihood' if hasattr(likelihood, name) else 'objective'}.{name}": value
        for name, value in fields
    }


def _characters(config: Config) -> tuple[int, int] | None:
    """Tokens of the longest question and answer, if the task makes them and each is a character."""
    prompt = config.task.prompt
    section = getattr(config.task, config.task.name, None)
    plain = (prompt.template, prompt.answer, prompt.chat) == ("{question}", "text", False)
    if config.tokenizer.name != "char" or not plain or not hasattr(section, "characters"):
        return None
    question, answer = section.characters
    return question + len(prompt.prefill), answer


def _get(config: Config, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), config)


def _read_template(template: str, field: str) -> str:
    reading.check_file(template[1:], field, most=_MOST_TEMPLATE)
    try:
        text = pathlib.Path(template[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # a missing file, an impossible name, or no UTF-8
        raise UserError(f"{field} cannot be read: {error}.") from error
    if text.startswith("@"):
        raise UserError(f"{field}: a template must not begin with @.")
    return text
