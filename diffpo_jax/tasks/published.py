"""The base class of tasks with published problems, which are read from the hub or from files."""

import abc
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.base import BaseTask
from diffpo_jax.tasks.datasets import hub
from diffpo_jax.tasks.task import SPLITS, Example, Examples

_ORDER = "held out"  # prefix of the questions whose hashes order the validation rows


class Row(NamedTuple):
    """A row, and an id that it keeps in every split: "gsm8k/train/17-1a2b3c4d"."""

    id: str
    question: str
    row: hub.Row


class Published(BaseTask, abc.ABC):
    """A task whose rows hold a question and a solution.

    Attributes:
      TRAIN, TEST: data sets to read if `train_file` or `test_file` is None (see `hub.load`).
      COLUMNS: columns that every row must have; the first holds the question.
    """

    TRAIN: str
    TEST: str
    COLUMNS: Sequence[str]

    def __init__(self, config: TaskConfig, data_dir: pathlib.Path):
        """See `BaseTask`.  Rows are read when they are asked for, and nothing is generated."""
        del data_dir
        super().__init__(config)
        train, test = config.train_file or self.TRAIN, config.test_file or self.TEST
        self._sources = {"train": train, "test": test}
        self._rows: dict[str, list[Row]] = {}
        self._examples: dict[str, Examples] = {}

    def examples(self, split: str) -> Sequence[Example]:
        """Examples of a split, in the order of the file.  The first call reads the data set.

        "validation" holds `config.validation_examples` rows of the training file, the last ones
        in a fixed random order and those with the same questions, and "train" the others.  Hashes
        of the questions give that order, so it is the same everywhere.

        Raises `UserError` if rows cannot be read, have no gold answer, or if there are fewer
        training rows than are to be held out.
        """
        if split not in self._examples:
            rows = [(row, self._gold(row.row)) for row in self._read(split)]
            self._examples[split] = Examples(rows, lambda _, row: self._example(*row))
        return self._examples[split]

    def overlap(self) -> int:
        """How many different test questions are also questions of the training file."""
        seen = {row.question for split in ("train", "validation") for row in self._read(split)}
        return len(seen & {row.question for row in self._read("test")})

    @abc.abstractmethod
    def _gold(self, row: hub.Row) -> str:
        """The gold answer of a row, as the row writes it.  Raises `UserError` if it has none."""

    @abc.abstractmethod
    def _meta(self, row: hub.Row) -> dict[str, Any]:
        """The entries of `Example.meta` beside the answer.  Raises `UserError` on a faulty row."""

    def _example(self, row: Row, gold: str) -> Example:
        return self._wording.example(
            id=row.id,
            fields={"question": row.question},
            answer=gold,
            meta={"answer": gold, **self._meta(row.row)},
        )

    def _read(self, split: str) -> list[Row]:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} must be one of {SPLITS}")
        if split not in self._rows:
            if split == "test" and self._sources["test"]:
                self._rows["test"] = self._read_file("test")
            else:
                self._rows |= self._hold_out(self._read_file("train"))
        return self._rows[split]

    def _hold_out(self, rows: list[Row]) -> dict[str, list[Row]]:
        """Divides the rows of the training file into "train" and "validation"."""
        count = self._config.validation_examples
        order = sorted(rows, key=lambda row: held_out_order(row.question))
        last = {row.question for row in order[max(0, len(order) - count) :]}
        train = [row for row in rows if row.question not in last]
        if not train:
            raise UserError(
                f"config.task.validation_examples={count} leaves nothing to train on: "
                f"{self._sources['train']} has {len(rows)} rows."
            )
        return {"train": train, "validation": [row for row in rows if row.question in last]}

    def _read_file(self, split: str) -> list[Row]:
        field = f"config.task.{split}_file"
        rows = hub.load(self._sources[split], field, split=split, columns=self.COLUMNS)
        result = []
        for position, row in enumerate(rows):
            question = self._question(row)
            name = f"{self.name}/{split}/{self._row_name(position, question, row)}"
            result.append(Row(name, question, row))
        return result

    def _question(self, row: hub.Row) -> str:
        """The question of a row."""
        return row.values[self.COLUMNS[0]]

    def _row_name(self, position: int, question: str, row: hub.Row) -> str:
        """The last part of the id of a row, which no other row of the file has."""
        del row
        return f"{position}-{_digest(question)[:8]}"


def held_out_order(question: str) -> str:
    """What questions are ordered by when some are held out: the same everywhere."""
    return _digest(f"{_ORDER}/{question}")


def _digest(text: str) -> str:
    # JSON can hold half of a surrogate pair, which is not valid UTF-8.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
