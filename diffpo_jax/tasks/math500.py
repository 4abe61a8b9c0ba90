r"""MATH: competition problems with a LaTeX expression for an answer (arXiv 2103.03874).

By default training reads ankner/math-500 and the test is MATH-500 (HuggingFaceH4/MATH-500), both
of the hub; `train_file` and `test_file` may name others.  Columns: `problem`, and `answer` or
`solution`, which boxes its answer; `level` (5, or "Level 5") where there is one.

Rewards:
  correct: 1 if the answer equals the gold answer by string rules, as a number, or by algebra,
    which is given up after `config.task.grader_seconds` (`verify`).
  formatted: 1 if the answer is marked as `config.task.prompt.answer` asks for.
  d1: the sum of d1's two, which are known by their own names too (`d1_math500`).

Protocol "default" counts `correct` as right.  "d1" trains on d1's sum, and counts as right what
d1's evaluation does, which compares strings.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.answers import extract
from diffpo_jax.tasks.answers.algebra import Verifier
from diffpo_jax.tasks.d1 import answers as d1_answers
from diffpo_jax.tasks.d1 import math500
from diffpo_jax.tasks.datasets.splits import Question, Splits
from diffpo_jax.tasks.published import Published
from diffpo_jax.tasks.task import GIVEN_UP, Example, Reward

TRAIN, TEST = "ankner/math-500::train", "HuggingFaceH4/MATH-500::test"
# The rewards by name, and the most that each gives.
REWARDS = {"correct": 1.0, "formatted": 1.0, "d1": math500.MOST} | {
    "format": 0.75,
    "correctness": 2.0,
}
WORDS = (
    "Here is a problem in mathematics.\n{question}\n"
    "The answer is one expression in LaTeX, as simple as it can be. {format}"
)


class Math500(Published):
    """MATH-500 and training problems like it, from the hub or from files of their form."""

    name = "math500"

    def __init__(self, config: TaskConfig, data_dir: pathlib.Path):
        """See `Published`; nothing is generated into `data_dir`."""
        del data_dir
        splits = Splits(config, train=TRAIN, test=TEST, columns=("problem",), question="problem")
        super().__init__(config, splits, REWARDS, WORDS)
        self._verifier = Verifier(limit_s=config.grader_seconds, processes=config.grader_processes)

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion (see the module's head).  Never raises, whatever the text."""
        return self.rewards([example], [completion])[0]

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Grades many completions, each like `reward`; their algebra is done side by side."""
        found = [extract.read(text, self._config.prompt.answer) for text in completions]
        golds = [example.meta["answer"] for example in examples]
        equal = self._verifier.equal([(g, a or "") for g, a in zip(golds, found, strict=True)])
        return [
            self._grade(text, gold, answer, bool(verdict))
            for text, gold, answer, verdict in zip(completions, golds, found, equal)
        ]

    def scores(self, examples: Sequence[Example], completions: Sequence[str]) -> dict[str, float]:
        """Accuracy by d1's evaluation, whatever the protocol, and how much algebra was given up.

        Returns:
          `d1_accuracy`; `given_up`, answers so far, of those this process graded, whose algebra
          was stopped or crashed.
        """
        right = [
            math500.is_right(c, e.meta["answer"])
            for e, c in zip(examples, completions, strict=True)
        ]
        return {
            "d1_accuracy": sum(right) / max(len(right), 1),
            GIVEN_UP: float(self._verifier.killed),
        }

    def difficulty(self, example: Example) -> float:
        """The problem's level, 1 to 5; 0 where the data set gives none."""
        return float(example.meta["level"])

    def _grade(self, completion: str, gold: str, answer: str | None, equal: bool) -> Reward:
        kind, of_d1 = self._config.prompt.answer, math500.rewards(completion, gold)
        marked = {"tags": extract.last_tag, "boxed": extract.last_boxed}.get(kind, str.strip)
        parts = {
            "correct": float(equal),
            "formatted": float(bool(marked(completion))),
            "d1": sum(of_d1.values()),
            **of_d1,
        }
        if self._config.protocol == "d1":
            answer = math500.evaluated(completion)
            equal = math500.is_right(completion, gold)
        return Reward(
            total=parts[self._reward],
            parts=parts,
            correct=equal,
            parsed=bool(answer),
            answer=answer,
        )

    def _gold(self, question: Question) -> str:
        """The column `answer`, or what `solution` boxes last."""
        values = question.row.values
        if not {"answer", "solution"} & values.keys():
            raise UserError(
                f"{question.row.where} has no column 'answer' and no column 'solution'. "
                f"Its columns: {', '.join(map(str, values))}."
            )
        gold = values.get("answer") or _boxed(values.get("solution"))
        if not isinstance(gold, str) or not gold.strip():
            raise UserError(
                f"{question.row.where}: there is no answer in its column 'answer', nor one in "
                r"\boxed{...} in its column 'solution'."
            )
        return gold.strip()

    def _meta(self, question: Question) -> dict[str, Any]:
        return {"level": _level(question.row.values)}


def _boxed(solution: Any) -> str | None:
    if not isinstance(solution, str):
        return None
    if (answer := extract.last_boxed(solution)) is not None:
        return answer
    # A few solutions write \boxed 5 or leave a brace open.
    return d1_answers.boxed(solution) if "\\boxed" in solution else None


def _level(values: Mapping[str, Any]) -> int:
    found = re.search("[0-9]", str(values.get("level", "")))
    return int(found[0]) if found else 0
