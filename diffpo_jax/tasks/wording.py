r"""The texts of prompts: templates with a task's fields, and how an answer is to be marked.

A template is the prompt's text with the fields in braces, as in "Solve {question}. {format}".
Only plain names may stand in braces; a literal brace is doubled: \boxed{{...}}.  `format` is a
field of every task: the sentence that asks for `config.task.prompt.answer`.
"""

import functools
import string
from collections.abc import Collection, Mapping
from typing import Any

from diffpo_jax.config import PromptConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.answers import extract
from diffpo_jax.tasks.task import Example

WORDS = "words"  # the template that stands for the task's own instructions
_WHERE = "config.task.prompt.template"

ANSWER_FORMATS = {
    "text": "Write the final answer and nothing else.",
    "tags": "Think it through first, then write the final answer between <answer> and </answer>.",
    "boxed": r"Think it through first, then write the final answer in \boxed{}.",
}


class Wording:
    """Makes a task's examples as `config.task.prompt` asks for them."""

    def __init__(self, config: PromptConfig, words: str, fields: Collection[str]):
        """Reads and checks the template.

        Args:
          words: the task's own instructions, a template; what "words" stands for.
          fields: the names that the task's examples give, beside "format".

        Raises:
          UserError: a template that cannot be filled.
        """
        self._config = config
        self._template = words if config.template == WORDS else config.template
        self._format = ANSWER_FORMATS[config.answer]
        parse(self._template, (*fields, "format"))

    def example(
        self, id: str, fields: Mapping[str, str], answer: str, meta: Mapping[str, Any]
    ) -> Example:
        """One problem, its target being the answer in the format that is asked for."""
        return Example(
            id=id,
            prompt=fill(self._template, {"format": self._format, **fields}),
            target=extract.mark(answer, self._config.answer),
            meta=meta,
            prefill=self._config.prefill,
            chat=self._config.chat,
        )


def fill(template: str, fields: Mapping[str, str], where: str = _WHERE) -> str:
    """The text that a template makes of fields.

    Args:
      fields: the values of all fields there are.
      where: the configuration field that holds the template, for messages.

    Raises:
      UserError: a name in braces that is no field, or anything but a plain name in them.
    """
    parts = parse(template, tuple(fields), where)
    return "".join(literal + (fields[name] if name else "") for literal, name in parts)


@functools.lru_cache(maxsize=64)
def parse(
    template: str, names: tuple[str, ...] | None, where: str = _WHERE
) -> list[tuple[str, str]]:
    """(text, the field after it or "") by turns; `names` are the fields there are, None: any.

    Raises:
      UserError: like `fill`.
    """
    there_are = ""
    if names is not None:
        there_are = f"The fields there are: {', '.join(f'{{{name}}}' for name in names)}. "
    parts = []
    try:
        for literal, name, spec, conversion in string.Formatter().parse(template):
            if name is None:
                parts.append((literal, ""))
                continue
            if spec or conversion or not name or (names is not None and name not in names):
                odd = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise UserError(
                    f"{where}: {{{odd}}} is no field. {there_are}A brace that is meant as text is "
                    "written twice."
                )
            parts.append((literal, name))
    except ValueError as error:
        raise UserError(
            f"{where}: {error}. A brace that is meant as text is written twice. {there_are}".strip()
        ) from error
    return parts
