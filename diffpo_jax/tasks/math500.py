r"""MATH: competition problems whose answer is a LaTeX expression (arXiv 2103.03874).

By default training reads ankner/math-500 and the test is MATH-500 (HuggingFaceH4/MATH-500), both
from the hub.  `train_file` and `test_file` may name others.  Columns: `problem`; `answer`, or
`solution`, which boxes its answer; optionally `level` (5, or "Level 5").

Rewards:
  correct: 1 if the answer means the same as the gold answer (`answers.math_equality`), if need be
    by algebra, which is given up after `config.task.grader_seconds` (`answers.algebra`).
  formatted: 1 if the answer is marked as `config.task.prompt.answer` asks.
  d1: the sum of d1's two rewards, each of which can be chosen by its own name (`d1.math500`).

Protocol "default" counts an answer as right if it earns `correct`.  "d1" trains on d1's sum, and
counts as right what d1's evaluation does, which compares strings.
"""

import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import protocol
from diffpo_jax.tasks.answers import extract
from diffpo_jax.tasks.answers.algebra import Verifier
from diffpo_jax.tasks.d1 import math500 as d1
from diffpo_jax.tasks.datasets import hub
from diffpo_jax.tasks.published import Published
from diffpo_jax.tasks.task import GIVEN_UP, Example, Reward


class Math500(Published):
    """MATH-500 and training problems like it, from the hub or from files of their form."""

    name = "math500"
    difficulty_unit = "levels"
    TRAIN, TEST = "ankner/math-500::train", "HuggingFaceH4/MATH-500::test"
    COLUMNS = ("problem",)
    PROTOCOLS = protocol.both(d1.PROTOCOL, "correct")
    REWARDS = {"correct": 1.0, "formatted": 1.0} | d1.REWARDS
    WORDS = (
        "Here is a problem in mathematics.\n{question}\n"
        "The answer is one expression in LaTeX, as simple as it can be. {format}"
    )

    def __init__(self, config: TaskConfig, data_dir: pathlib.Path):
        """See `Published`."""
        super().__init__(config, data_dir)
        self._verifier = Verifier(limit_s=config.grader_seconds, processes=config.grader_processes)

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion (see the module's docstring).  Never raises, whatever the text."""
        return self.rewards([example], [completion])[0]

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Grades many completions as `reward` does.  Their algebra runs in parallel."""
        answers = [self._read_answer(text) for text in completions]
        golds = [example.meta["answer"] for example in examples]
        equal = self._verifier.equal([(g, a or "") for g, a in zip(golds, answers, strict=True)])
        rewards = []
        for example, text, answer, verdict in zip(examples, completions, answers, equal):
            own = protocol.Verdict(bool(verdict), bool(answer), answer)
            formatted = float(self._is_marked(text))
            parts = {"correct": float(own.correct), "formatted": formatted}
            rewards.append(self._grade(example, text, own, parts))
        return rewards

    def scores(self, examples: Sequence[Example], completions: Sequence[str]) -> dict[str, float]:
        """d1's accuracy, and the answers of this process so far whose algebra hung or crashed."""
        scores = super().scores(examples, completions)
        return scores | {GIVEN_UP: float(self._verifier.killed)}

    def difficulty(self, example: Example) -> float:
        """The problem's level, 1 to 5, or 0 if the data set has none."""
        return float(example.meta["level"])

    def _gold(self, row: hub.Row) -> str:
        """The column `answer`, or the last box of the column `solution`."""
        values = row.values
        if not {"answer", "solution"} & values.keys():
            raise UserError(
                f"{row.where} has no column 'answer' and no column 'solution'. "
                f"Its columns: {', '.join(map(str, values))}."
            )
        answer, solution = values.get("answer"), values.get("solution")
        if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
            raise UserError(
                f"{row.where}: column 'answer' must be text or a number; it is {answer!r:.80}."
            )
        if isinstance(answer, float):
            if not math.isfinite(answer):
                raise UserError(f"{row.where}: column 'answer' must be finite; it is {answer}.")
            answer = f"{answer:.12g}"
        gold = "" if answer is None else str(answer).strip()
        gold = gold or (extract.last_boxed(solution) if isinstance(solution, str) else "")
        if not gold:
            raise UserError(
                f"{row.where}: column 'answer' is empty, and column 'solution' has no "
                r"\boxed{...}."
            )
        return gold

    def _meta(self, row: hub.Row) -> dict[str, Any]:
        level = re.search("[0-9]", str(row.values.get("level", "")))
        return {"level": int(level[0]) if level else 0}
