"""Prompts with written answers, for the base model: rows of a file or of a hub's data set.

d1 starts RL from a model that was so trained on s1K, whose answers are thoughts and an attempt; see
the preset s1k.
"""

import re
from collections.abc import Sequence

from diffpo_jax.config import DemonstrationsConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import wording
from diffpo_jax.tasks.datasets import hub
from diffpo_jax.tasks.task import Example, Examples

WHERE = "config.pretrain.demonstrations"

_ENTRY = re.compile(r"(.+)\[([0-9]{1,9})\]")


def read(config: DemonstrationsConfig) -> Sequence[Example]:
    """The rows of `config.source` as examples; every template is filled once, for its mistakes.

    Raises:
      UserError: what `hub.load` says, a template that is none, a row without a column or list
        entry that a template names, one that is not text, or an answer without text.
    """
    templates = {"prompt": config.prompt, "answer": config.answer}
    for name, template in templates.items():
        if not any(field for _, field in wording.parse(template, None, f"{WHERE}.{name}")):
            raise UserError(f"{WHERE}.{name} names no column, such as {{question}}.")
    rows = hub.load(config.source, f"{WHERE}.source", split="train", columns=())
    texts = [
        (_fill(row, config.prompt, "prompt"), _fill(row, config.answer, "answer")) for row in rows
    ]
    for row, (_, answer) in zip(rows, texts):
        if not answer.strip():
            raise UserError(f"{row.where}: {WHERE}.answer makes an empty answer of it.")

    def make(position: int, text: tuple[str, str]) -> Example:
        prompt, answer = text
        return Example(f"demonstrations/{position}", prompt, answer, chat=config.chat)

    return Examples(texts, make)


def _fill(row: hub.Row, template: str, name: str) -> str:
    where = f"{WHERE}.{name}"
    used = {field for _, field in wording.parse(template, None, where) if field}
    return wording.fill(template, {field: _value(row, field) for field in used}, where)


def _value(row: hub.Row, field: str) -> str:
    """A column, or an entry of one that holds a list: name[0]."""
    entry = _ENTRY.fullmatch(field)
    name, index = (entry[1], int(entry[2])) if entry and field not in row.values else (field, None)
    if name not in row.values:
        raise UserError(
            f"{row.where} has no column {name!r}. Its columns: {', '.join(map(str, row.values))}."
        )
    value = row.values[name]
    if index is not None:
        if not isinstance(value, list) or index >= len(value):
            raise UserError(f"{row.where}: column {name!r} has no entry {index}: {value!r:.80}.")
        value = value[index]
    if not isinstance(value, str):
        raise UserError(f"{row.where}: {field!r} must be text; it is {value!r:.80}.")
    return value
