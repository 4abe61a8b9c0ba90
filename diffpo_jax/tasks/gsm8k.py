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

from diffpo_jax.config import TaskConfig
from diffpo_jax.errors import UserError
from diffpo_jax.tasks import answers, d1_gsm8k, numbers
from diffpo_jax.tasks.splits import Question, Splits
from diffpo_jax.tasks.task import Example, Examples, OneByOne, Reward, choose_reward
from diffpo_jax.tasks.wording import Wording

TRAIN, TEST = "openai/gsm8k:main:train", "openai/gsm8k:main:test"
# The rewards by name, and the most that each gives.
REWARDS = {"correct": 1.0, "formatted": 1.0, "d1": d1_gsm8k.MOST} | {
    "xmlcount": 0.5,
    "soft_format": 0.5,
    "strict_format": 0.5,
    "int": 0.5,
    "correctness": 2.0,
}
FIELDS = ("question",)  # of prompt templates
WORDS = (
    "Here is a word problem. Its answer is a number.\n{question}\n"
    "The answer is the number alone, in digits, without a unit. {format}"
)

_MARK = "####"


class Gsm8k(OneByOne):
    """GSM8K, from the hub or from files of its form."""

    name = "gsm8k"

    def __init__(self, config: TaskConfig, data_dir: pathlib.Path):
        """Checks the settings; rows are read when they are asked for.

        Raises:
          UserError: an unknown reward, a template that cannot be filled.
        """
        del data_dir  # nothing is generated
        self._config = config
        self._reward = choose_reward(config.reward, config.protocol, tuple(REWARDS), "d1")
        self.reward_max = REWARDS[self._reward]
        self._wording = Wording(config.prompt, WORDS, FIELDS)
        self._splits = Splits(
            config, train=TRAIN, test=TEST, columns=("question", "answer"), question="question"
        )
        self._examples: dict[str, Examples] = {}

    def examples(self, split: str) -> Sequence[Example]:
        """Examples of a split (see `Splits.read`); the first call reads the data set.

        Raises:
          UserError: rows that cannot be had or read, or one whose solution ends in no number.
        """
        if split not in self._examples:
            rows = [(q, _gold(q)) for q in self._splits.read(split)]
            self._examples[split] = Examples(rows, lambda _, row: self._example(*row))
        return self._examples[split]

    def overlap(self) -> int:
        """How many different test questions are training questions too."""
        return self._splits.overlap()

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion (see the module's head).  Never raises, whatever the text."""
        kind, gold = self._config.prompt.answer, example.meta["answer"]
        text = answers.read(completion, kind)
        number = None
        if text is not None:
            number = numbers.last(text) if kind == "text" else numbers.read(text)
        correct, parsed = number is not None and number == numbers.read(gold), number is not None
        of_d1 = d1_gsm8k.rewards(completion, gold)
        parts = {
            "correct": float(correct),
            "formatted": float(parsed and is_marked(completion, kind)),
            "d1": sum(of_d1.values()),
            **of_d1,
        }
        if self._config.protocol == "d1":
            value, text = d1_gsm8k.evaluated(completion)
            correct, parsed = d1_gsm8k.is_right(completion, gold), value is not None
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
            d1_gsm8k.is_right(c, e.meta["answer"])
            for e, c in zip(examples, completions, strict=True)
        ]
        return {"d1_accuracy": sum(right) / max(len(right), 1)}

    def difficulty(self, example: Example) -> float:
        """The calculations that the solution takes, those it marks as <<...>>; 0: it marks none."""
        return float(example.meta["calculations"])

    def _example(self, question: Question, gold: str) -> Example:
        values = question.row.values
        return self._wording.example(
            id=question.id,
            fields={"question": values["question"]},
            answer=gold,
            meta={"answer": gold, "calculations": len(re.findall("<<", values["answer"]))},
        )


def is_marked(completion: str, kind: str) -> bool:
    """Whether a completion marks its answer as the format asks for."""
    if kind == "text":
        return True
    find = answers.last_tag if kind == "tags" else answers.last_boxed
    return find(completion) is not None


def _gold(question: Question) -> str:
    """The number after the last ####, as it is written there."""
    gold = question.row.values["answer"].rpartition(_MARK)
    number = gold[2].strip()
    if not gold[1] or numbers.read(number) is None:
        raise UserError(
            f"{question.row.where}: column 'answer' must end in {_MARK} and a number; it ends in "
            f"{number[-40:]!r}."
        )
    return number
