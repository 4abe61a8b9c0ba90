"""Prompts with written answers to train the base model on, from a file or from the hub.

d1 starts RL from a model that was trained in this way on s1K, whose answers are thoughts and an
attempt; see the preset s1k.
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
    """Reads the rows of `config.source` as examples.  Fills all templates now, to find mistakes.

    Raises:
      UserError: like `hub.load`; a faulty template; a row in which a column or list entry of a
        template is missing or is not text; an answer without text.
    """
    for name, template in (("prompt", config.prompt), ("answer", config.answer)):
        if not any(field for _, field in wording.parse(template, None, f"{WHERE}.{name}")):
            raise UserError(f"{WHERE}.{name} must name a column, such as {{question}}.")
    rows = hub.load(config.source, f"{WHERE}.source", split="train", columns=())
    texts = [
        (_fill(row, config.prompt, "prompt"), _fill(row, config.answer, "answer")) for row in rows
    ]
    for row, (_, answer) in zip(rows, texts):
        if not answer.strip():
            raise UserError(f"{row.where}: {WHERE}.answer gives an empty answer.")

    def make(position: int, text: tuple[str, str]) -> Example:
        prompt, answer = text
        return Example(f"demonstrations/{position}", prompt, answer, chat=config.chat)

    return Examples(texts, make)


def _fill(row: hub.Row, template: str, name: str) -> str:
    where = f"{WHERE}.{name}"
    used = {field for _, field in wording.parse(template, None, where) if field}
    return wording.fill(template, {field: _value(row, field) for field in used}, where)


def _value(row: hub.Row, field: str) -> str:
    """The value of a column, or of an entry of a column that holds a list: name[0]."""
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
