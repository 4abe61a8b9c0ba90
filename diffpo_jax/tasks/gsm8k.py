"""GSM8K: grade school word problems with a number for an answer (arXiv 2110.14168).

By default the data set openai/gsm8k of the hub is read; `train_file` and `test_file` may name
others with its columns: `question`, and `answer`, a solution that ends in "#### " and the number.

Rewards:
  correct: 1 if the answer is the number, compared exactly, however it is written (`numbers`).
  formatted: 1 if the answer is marked as `config.task.prompt.answer` asks for.
  d1: the sum of d1's five, which are known by their own names too (`d1_gsm8k`).

Protocol "default" counts `correct` as right.  "d1" trains on d1's sum, and counts as right what
d1's evaluation does.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.answers import extract, numbers
from diffpo_jax.tasks.d1 import gsm8k
from diffpo_jax.tasks.datasets.splits import Question, Splits
from diffpo_jax.tasks.published import Published
from diffpo_jax.tasks.task import Example, OneByOne, Reward

TRAIN, TEST = "openai/gsm8k:main:train", "openai/gsm8k:main:test"
# The rewards by name, and the most that each gives.
REWARDS = {"correct": 1.0, "formatted": 1.0, "d1": gsm8k.MOST} | {
    "xmlcount": 0.5,
    "soft_format": 0.5,
    "strict_format": 0.5,
    "int": 0.5,
    "correctness": 2.0,
}
WORDS = (
    "Here is a word problem. Its answer is a number.\n{question}\n"
    "The answer is the number alone, in digits, without a unit. {format}"
)

_MARK = "####"


class Gsm8k(Published, OneByOne):
    """GSM8K, from the hub or from files of its form."""

    name = "gsm8k"

    def __init__(self, config: TaskConfig, data_dir: pathlib.Path):
        """See `Published`; nothing is generated into `data_dir`."""
        del data_dir
        columns = ("question", "answer")
        splits = Splits(config, train=TRAIN, test=TEST, columns=columns, question="question")
        super().__init__(config, splits, REWARDS, WORDS)

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion (see the module's head).  Never raises, whatever the text."""
        kind, gold = self._config.prompt.answer, example.meta["answer"]
        text = extract.read(completion, kind)
        number = None
        if text is not None:
            number = numbers.last(text) if kind == "text" else numbers.read(text)
        correct, parsed = number is not None and number == numbers.read(gold), number is not None
        of_d1 = gsm8k.rewards(completion, gold)
        parts = {
            "correct": float(correct),
            "formatted": float(parsed and is_marked(completion, kind)),
            "d1": sum(of_d1.values()),
            **of_d1,
        }
        if self._config.protocol == "d1":
            value, text = gsm8k.evaluated(completion)
            correct, parsed = gsm8k.is_right(completion, gold), value is not None
        answer = text if kind != "text" or self._config.protocol == "d1" else number
        return Reward(
            total=parts[self._reward],
            parts=parts,
            correct=correct,
            parsed=parsed,
            answer=None if answer is None else str(answer),
        )

    def scores(self, examples: Sequence[Example], completions: Sequence[str]) -> dict[str, float]:
        """Accuracy by d1's evaluation, whatever the protocol: `d1_accuracy`."""
        right = [
            gsm8k.is_right(c, e.meta["answer"]) for e, c in zip(examples, completions, strict=True)
        ]
        return {"d1_accuracy": sum(right) / max(len(right), 1)}

    def difficulty(self, example: Example) -> float:
        """The calculations that the solution takes, those it marks as <<...>>; 0: it marks none."""
        return float(example.meta["calculations"])

    def _gold(self, question: Question) -> str:
        """The number after the last ####."""
        gold = question.row.values["answer"].rpartition(_MARK)
        number = gold[2].strip()
        if not gold[1] or numbers.read(number) is None:
            raise UserError(
                f"{question.row.where}: column 'answer' must end in {_MARK} and a number; it ends "
                f"in {number[-40:]!r}."
            )
        return number

    def _meta(self, question: Question) -> dict[str, Any]:
        return {"calculations": len(re.findall("<<", question.row.values["answer"]))}


def is_marked(completion: str, kind: str) -> bool:
    """Whether a completion marks its answer as the format asks for."""
    if kind == "text":
        return True
    find = extract.last_tag if kind == "tags" else extract.last_boxed
    return find(completion) is not None
