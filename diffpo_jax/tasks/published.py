"""The base class of tasks with published problems, which are read from the hub or from files."""

import abc
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.base import BaseTask
from diffpo_jax.tasks.datasets import hub
from diffpo_jax.tasks.task import SPLITS, Example, Examples

_ORDER = "held out"  # prefix of the questions whose hashes order the validation rows


class _Row(NamedTuple):
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
        self._rows: dict[str, list[_Row]] = {}
        self._examples: dict[str, Examples] = {}

    def examples(self, split: str) -> Sequence[Example]:
        """Examples of a split, in the order of the file.  The first call reads the data set.

        "validation" holds `config.validation_examples` rows of the training file, the last ones
        in a fixed random order, and "train" the others.  Hashes of the questions give that order,
        so it is the same everywhere, and rows with the same question stay together.

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
    def _meta(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of `Example.meta`, beside the answer, by the values of a row."""

    def _example(self, row: _Row, gold: str) -> Example:
        return self._wording.example(
            id=row.id,
            fields={"question": row.question},
            answer=gold,
            meta={"answer": gold, **self._meta(row.row.values)},
        )

    def _read(self, split: str) -> list[_Row]:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} must be one of {SPLITS}")
        if split not in self._rows:
            rows = self._read_file("test" if split == "test" else "train")
            self._rows |= {"test": rows} if split == "test" else self._hold_out(rows)
        return self._rows[split]

    def _hold_out(self, rows: list[_Row]) -> dict[str, list[_Row]]:
        """Divides the rows of the training file into "train" and "validation"."""
        count = self._config.validation_examples
        if count >= len(rows):
            raise UserError(
                f"config.task.validation_examples={count} leaves nothing to train on: "
                f"{self._sources['train']} has {len(rows)} rows."
            )
        order = sorted(rows, key=lambda row: _digest(f"{_ORDER}/{row.question}"))
        last = {row.id for row in order[len(order) - count :]}
        return {
            "train": [row for row in rows if row.id not in last],
            "validation": [row for row in rows if row.id in last],
        }

    def _read_file(self, split: str) -> list[_Row]:
        field = f"config.task.{split}_file"
        rows = hub.load(self._sources[split], field, split=split, columns=self.COLUMNS)
        questions = [row.values[self.COLUMNS[0]] for row in rows]
        names = [f"{self.name}/{split}/{i}-{_digest(q)[:8]}" for i, q in enumerate(questions)]
        return [_Row(*row) for row in zip(names, questions, rows)]


def _digest(text: str) -> str:
    # JSON can hold half of a surrogate pair, which is not valid UTF-8.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
