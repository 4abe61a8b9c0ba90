r"""The texts of prompts: templates with a task's fields, and the sentences on answer formats.

A template is the prompt's text with fields in braces, as in "Solve {question}. {format}".  Only
plain names may be in braces; a literal brace is doubled: \boxed{{...}}.  Every task has the field
`format`: the sentence that asks for the answer format `config.task.prompt.answer`.
"""

import functools
import string
from collections.abc import Collection, Mapping
from typing import Any

from diffpo_jax.config import PromptConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.answers import extract
from diffpo_jax.tasks.task import Example

WORDS = "words"  # the value of `template` that stands for the task's own instructions
_WHERE = "config.task.prompt.template"

ANSWER_FORMATS = {
    "text": "Write the final answer and nothing else.",
    "tags": "Think it through first, then write the final answer between <answer> and </answer>.",
    "boxed": r"Think it through first, then write the final answer in \boxed{}.",
}


class Wording:
    """Makes a task's examples according to `config.task.prompt`."""

    def __init__(self, config: PromptConfig, words: str, fields: Collection[str]):
        """Checks the template.  Raises `UserError` if it cannot be filled.

        Args:
          words: the task's own instructions, a template, used if the template is "words".
          fields: the names of the task's fields, beside "format".
        """
        self._config = config
        self._template = words if config.template == WORDS else config.template
        self._format = ANSWER_FORMATS[config.answer]
        parse(self._template, (*fields, "format"))

    def example(
        self, id: str, fields: Mapping[str, str], answer: str, meta: Mapping[str, Any]
    ) -> Example:
        """Makes an example whose target is the answer in the configured format."""
        return Example(
            id=id,
            prompt=fill(self._template, {"format": self._format, **fields}),
            target=extract.mark(answer, self._config.answer),
            meta=meta,
            prefill=self._config.prefill,
            chat=self._config.chat,
        )


def fill(template: str, fields: Mapping[str, str], where: str = _WHERE) -> str:
    """Replaces the fields of a template by their values.

    Raises `UserError`, naming the configuration field `where`, if braces do not hold the plain name
    of a field.
    """
    parts = parse(template, tuple(fields), where)
    return "".join(literal + (fields[name] if name else "") for literal, name in parts)


@functools.lru_cache(maxsize=64)
def parse(
    template: str, names: tuple[str, ...] | None, where: str = _WHERE
) -> list[tuple[str, str]]:
    """Divides a template into pairs (text, name of the field after it or "").

    `names` are the known fields, or None if any name is allowed.  Raises like `fill`.
    """
    hint = "Write a literal brace twice."
    if names is not None:
        hint += f" The fields are: {', '.join(f'{{{name}}}' for name in names)}."
    parts = []
    try:
        for literal, name, spec, conversion in string.Formatter().parse(template):
            if name is None:
                parts.append((literal, ""))
                continue
            if spec or conversion or not name or (names is not None and name not in names):
                odd = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise UserError(f"{where}: {{{odd}}} is not a field. {hint}")
            parts.append((literal, name))
    except ValueError as error:
        raise UserError(f"{where}: {error}. {hint}") from error
    return parts
