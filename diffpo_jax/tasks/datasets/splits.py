"""The splits of published data sets: training rows, some of them held out, and test rows."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import hub
from diffpo_jax.tasks.task import SPLITS

_ORDER = "held out"  # what the order that validation rows are taken by derives from


class Question(NamedTuple):
    """A row with an id that it keeps whatever split it is in: "gsm8k/train/17-1a2b3c4d"."""

    id: str
    row: hub.Row


class Splits:
    """Reads a data set when it is asked for, once."""

    def __init__(
        self, config: TaskConfig, *, train: str, test: str, columns: Sequence[str], question: str
    ):
        """Reads nothing yet.

        Args:
          train, test: what is read where `config.train_file` or `config.test_file` is None.
          columns: see `hub.load`.
          question: the column that tells problems apart.
        """
        self._config = config
        self._sources = {"train": config.train_file or train, "test": config.test_file or test}
        self._columns = columns
        self._question = question
        self._splits: dict[str, list[Question]] = {}

    def read(self, split: str) -> list[Question]:
        """The questions of a split, in the order of the file.

        "validation" holds `config.validation_examples` rows of the training file, those that come
        last in a fixed random order; "train" holds the others.  The order is that of hashes of
        the questions, so that it is the same everywhere and rows of one question stay together.

        Raises:
          UserError: what `hub.load` says, or fewer training rows than are to be held out.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {SPLITS}")
        if split not in self._splits:
            self._splits |= self._read_test() if split == "test" else self._read_train()
        return self._splits[split]

    def overlap(self) -> int:
        """How many different test questions are questions of the training file."""
        seen = {self.text(q) for name in ("train", "validation") for q in self.read(name)}
        return len(seen & {self.text(q) for q in self.read("test")})

    def text(self, question: Question) -> str:
        """The problem itself."""
        return question.row.values[self._question]

    def _read_test(self) -> dict[str, list[Question]]:
        return {"test": self._read_file("test")}

    def _read_train(self) -> dict[str, list[Question]]:
        questions, held_out = self._read_file("train"), self._config.validation_examples
        if held_out >= len(questions):
            raise UserError(
                f"config.task.validation_examples={held_out} leaves nothing to train on: "
                f"{self._sources['train']} has {len(questions)} rows."
            )
        order = sorted(questions, key=lambda q: _digest(f"{_ORDER}/{self.text(q)}"))
        last = {q.id for q in order[len(order) - held_out :]}
        return {
            "train": [q for q in questions if q.id not in last],
            "validation": [q for q in questions if q.id in last],
        }

    def _read_file(self, split: str) -> list[Question]:
        rows = hub.load(
            self._sources[split], f"config.task.{split}_file", split=split, columns=self._columns
        )
        name = f"{self._config.name}/{split}"
        digests = [_digest(row.values[self._question])[:8] for row in rows]
        return [Question(f"{name}/{i}-{digests[i]}", row) for i, row in enumerate(rows)]


def _digest(text: str) -> str:
    # Half of a surrogate pair is no UTF-8, but JSON can hold it.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
