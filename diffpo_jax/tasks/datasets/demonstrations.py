"""Prompts with written answers to train the base model on, from a file or from the hub.

d1 starts RL from a model that was trained in this way on s1K, whose answers are thoughts and an
attempt; see the preset s1k.
"""

from collections.abc import Sequence

from diffpo_jax.config import DemonstrationsConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import columns, hub
from diffpo_jax.tasks.task import Example, Examples

WHERE = "config.pretrain.demonstrations"


def read(config: DemonstrationsConfig) -> Sequence[Example]:
    """Reads the rows of `config.source` as examples.  Fills all templates now, to find mistakes.

    Raises:
      UserError: like `hub.load`; a faulty template; a row in which a column or list entry of a
        template is missing or is neither text nor a number; an answer without text.
    """
    for name, template in (("prompt", config.prompt), ("answer", config.answer)):
        if not columns.names(template, f"{WHERE}.{name}"):
            raise UserError(f"{WHERE}.{name} must name a column, such as {{question}}.")
    rows = hub.load(config.source, f"{WHERE}.source", split="train", columns=())
    texts = [
        (
            columns.fill(row, config.prompt, f"{WHERE}.prompt"),
            columns.fill(row, config.answer, f"{WHERE}.answer"),
        )
        for row in rows
    ]
    for row, (_, answer) in zip(rows, texts):
        if not answer.strip():
            raise UserError(f"{row.where}: {WHERE}.answer gives an empty answer.")

    def make(position: int, text: tuple[str, str]) -> Example:
        prompt, answer = text
        return Example(f"demonstrations/{position}", prompt, answer, chat=config.chat)

    return Examples(texts, make)
