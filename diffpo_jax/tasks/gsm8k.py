"""GSM8K: grade school word problems whose answer is a number (arXiv 2110.14168).

By default the data set openai/gsm8k of the hub is read.  `train_file` and `test_file` may name
others with its columns: `question`, and `answer`, a solution that ends in "#### " and the number.

Rewards:
  correct: 1 if the answer is the number, compared exactly, however it is written
    (`answers.numbers`).
  formatted: 1 if the answer is marked as `config.task.prompt.answer` asks.
  d1: the sum of d1's five rewards, each of which can be chosen by its own name (`d1.gsm8k`).

Protocol "default" counts an answer as right if it earns `correct`.  "d1" trains on d1's sum, and
counts as right what d1's evaluation does.
"""

from typing import Any

from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import protocol
from diffpo_jax.tasks.answers import numbers
from diffpo_jax.tasks.d1 import gsm8k as d1
from diffpo_jax.tasks.datasets import hub
from diffpo_jax.tasks.published import Published
from diffpo_jax.tasks.task import Example, Reward

_MARK = "####"


class Gsm8k(Published):
    """GSM8K, from the hub or from files of its form."""

    name = "gsm8k"
    difficulty_unit = "calculations"
    TRAIN, TEST = "openai/gsm8k:main:train", "openai/gsm8k:main:test"
    COLUMNS = ("question", "answer")
    PROTOCOLS = protocol.both(d1.PROTOCOL, "correct")
    REWARDS = {"correct": 1.0, "formatted": 1.0} | d1.REWARDS
    WORDS = (
        "Here is a word problem. Its answer is a number.\n{question}\n"
        "The answer is the number alone, in digits, without a unit. {format}"
    )

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion (see the module's docstring).  Never raises, whatever the text."""
        kind = self._config.prompt.answer
        text, number = self._read_answer(completion), None
        if text is not None:
            number = numbers.read_last(text) if kind == "text" else numbers.read(text)
        parsed = number is not None
        correct = parsed and number == numbers.read(example.meta["answer"])
        answer = text if kind != "text" else str(number) if parsed else None
        marked = parsed and self._is_marked(completion)
        parts = {"correct": float(correct), "formatted": float(marked)}
        return self._grade(example, completion, protocol.Verdict(correct, parsed, answer), parts)

    def difficulty(self, example: Example) -> float:
        """The number of calculations that the solution marks with <<...>>."""
        return float(example.meta["calculations"])

    def _gold(self, row: hub.Row) -> str:
        """The number after the last ####."""
        _, mark, number = row.values["answer"].rpartition(_MARK)
        number = number.strip()
        if not mark or numbers.read(number) is None:
            raise UserError(
                f"{row.where}: column 'answer' must end in {_MARK} and a number; it ends "
                f"in {number[-40:]!r}."
            )
        return number

    def _meta(self, row: hub.Row) -> dict[str, Any]:
        return {"calculations": row.values["answer"].count("<<")}
