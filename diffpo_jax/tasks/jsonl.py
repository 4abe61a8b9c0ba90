"""Rows of your own: questions and answers in a file, graded by name or by a function of yours.

`config.task.train_file` names the rows, in any form that `datasets.hub` reads; without a
`test_file`, some of its questions are held out for the test.  `config.task.jsonl` names the columns
and the grader.

Rewards:
  correct: what the grader gives (`graders`): 1 if the answer is right.
  formatted: 1 if the answer is marked as `config.task.prompt.answer` asks.
"""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import graders, protocol
from diffpo_jax.tasks.datasets import columns, hub
from diffpo_jax.tasks.graders import WHERE
from diffpo_jax.tasks.published import Published, Row, held_out_order
from diffpo_jax.tasks.task import GIVEN_UP, Example, Reward


class Jsonl(Published):
    """Rows of your own, from files or the hub.

    `Example.meta` holds the row's columns as "row", and its answer as "answer".
    """

    name = "jsonl"
    TRAIN = TEST = ""
    COLUMNS = ()
    PROTOCOLS = protocol.only_own("correct")
    REWARDS = dict.fromkeys(("correct", "formatted"), 1.0)
    WORDS = "{question}\n{format}"

    def __init__(self, config: TaskConfig, data_dir: pathlib.Path):
        """See `Published`."""
        super().__init__(config, data_dir)
        own = config.jsonl
        self._grader = graders.make(config)
        self._question_template = _template(own.question, f"{WHERE}.question")
        self._answer_template = _template(own.answer, f"{WHERE}.answer")
        self.difficulty_unit = own.difficulty or "difficulty"

    def examples(self, split: str) -> Sequence[Example]:
        """See `Published`.  Also raises `UserError` if the grader does not accept an answer."""
        new = split not in self._examples
        examples = super().examples(split)
        if new:
            self._check_answers(examples, self._read(split))
        return examples

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion (see the module's docstring).

        Raises `UserError` if a function of the user's fails, and nothing else.
        """
        return self.rewards([example], [completion])[0]

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Grades many completions as `reward` does; the grader may work in parallel."""
        answers = [self._read_answer(text) for text in completions]
        rewards = []
        grades = self._grader.grade(examples, answers)
        for example, text, answer, grade in zip(examples, completions, answers, grades):
            own = protocol.Verdict(grade == 1.0, grade is not None, answer)
            marked = own.parsed and self._is_marked(text)
            parts = {"correct": grade or 0.0, "formatted": float(marked)}
            rewards.append(self._grade(example, text, own, parts))
        return rewards

    def scores(self, examples: Sequence[Example], completions: Sequence[str]) -> dict[str, float]:
        """The answers of this process so far that the grader gave up, if it can do so."""
        given_up = self._grader.given_up
        return {} if given_up is None else {GIVEN_UP: float(given_up)}

    def difficulty(self, example: Example) -> float:
        """The value of the column `config.task.jsonl.difficulty`, or 0 without one."""
        return float(example.meta.get("difficulty", 0.0))

    def _check_answers(self, examples: Sequence[Example], rows: Sequence[Row]) -> None:
        """Raises `UserError` if the grader does not find a row's own answer right."""
        for example, row, reward in zip(
            examples, rows, self.rewards(examples, [example.target for example in examples])
        ):
            if not reward.correct:
                raise UserError(
                    f"{row.row.where}: the grader {self._config.jsonl.grader!r} "
                    f"{'finds' if reward.parsed else 'cannot read'} the answer "
                    f"{example.meta['answer']!r:.80}{' wrong' if reward.parsed else ''}, though it "
                    f"is the row's own. Correct the row, or choose another {WHERE}.grader."
                )

    def _hold_out(self, rows: list[Row]) -> dict[str, list[Row]]:
        """Holds out questions for validation, and without a test file as many for the test."""
        share = self._config.jsonl.held_out
        questions = sorted({row.question for row in rows}, key=held_out_order)
        parts = ["validation"] + ["test"] * (not self._sources["test"])
        count = max(1, round(share * len(questions)))
        if len(questions) <= count * len(parts):
            raise UserError(
                f"config.task.train_file={self._sources['train']} has {len(questions)} different "
                f"questions: with {count} held out for {' and '.join(parts)} each, none is left "
                "to train on. Give more rows."
            )
        split = dict.fromkeys(questions, "train")
        for i, part in enumerate(parts):
            last = len(questions) - i * count
            split |= dict.fromkeys(questions[last - count : last], part)
        return {
            part: [row for row in rows if split[row.question] == part] for part in ["train", *parts]
        }

    def _read_file(self, split: str) -> list[Row]:
        if not self._sources[split]:
            raise UserError(
                "config.task.train_file is missing: the task jsonl needs a file with your rows "
                f"({', '.join(hub.SUFFIXES)}), or a data set on the hub."
            )
        rows = super()._read_file(split)
        seen: dict[str, str] = {}
        for row in rows:
            if row.id in seen:
                raise UserError(
                    f"{row.row.where}: column {self._config.jsonl.id!r} must name each row, but "
                    f"has {row.id.rpartition('/')[2]!r:.80} in {seen[row.id]} too."
                )
            seen[row.id] = row.row.where
        return rows

    def _question(self, row: hub.Row) -> str:
        return _filled(row, self._question_template, f"{WHERE}.question")

    def _row_name(self, position: int, question: str, row: hub.Row) -> str:
        column = self._config.jsonl.id
        return columns.value(row, column) if column else super()._row_name(position, question, row)

    def _gold(self, row: hub.Row) -> str:
        return _filled(row, self._answer_template, f"{WHERE}.answer")

    def _meta(self, row: hub.Row) -> dict[str, Any]:
        column, values = self._config.jsonl.difficulty, _plain(row.values)
        return {"row": values} | ({"difficulty": _number(row, column)} if column else {})


def _template(text: str, where: str) -> str:
    """A template, of which the name of a column alone is the shortest form."""
    template = text if "{" in text or "}" in text else f"{{{text}}}"
    if not columns.names(template, where):
        raise UserError(f"{where}={text!r} must name a column.")
    return template


def _filled(row: hub.Row, template: str, where: str) -> str:
    text = columns.fill(row, template, where)
    if not text.strip():
        raise UserError(f"{row.where}: {where} gives an empty text.")
    return text


def _number(row: hub.Row, column: str) -> float:
    value = columns.raw(row, column)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{row.where}: column {column!r} must be a number; it is {value!r:.80}.")
    return number


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a row as JSON has them: dates and the like become text."""
    # Empty cells of Parquet are NaN, which cannot be written to samples/.
    return json.loads(json.dumps(values, default=str), parse_constant=lambda _: None)
