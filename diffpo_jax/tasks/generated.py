"""The base class of tasks with generated rows, which may also be read from files."""

import abc
import pathlib
from collections.abc import Sequence
from typing import Any

from diffpo_jax.config import TaskConfig
from diffpo_jax.tasks.base import BaseTask
from diffpo_jax.tasks.task import SPLITS, Example, Examples


class Generated(BaseTask, abc.ABC):
    """A task whose rows are generated, or read from `train_file` and `test_file`."""

    def __init__(self, config: TaskConfig, data_dir: pathlib.Path):
        """Checks the settings and reads the files.  Rows are generated when they are asked for.

        Raises:
          UserError: settings that no row can meet, an unknown reward, or a faulty file.
        """
        super().__init__(config)
        self._data_dir = data_dir
        self._settings = getattr(config, self.name)
        self._dataset = self._import_dataset()
        self._dataset.check(self._settings)
        sources = {"train": config.train_file, "test": config.test_file}
        self._rows = {
            split: self._read_file(source, f"config.task.{split}_file", split)
            for split, source in sources.items()
            if source
        }

    def examples(self, split: str) -> Sequence[Example]:
        """Examples of a split in a fixed order.  The first call may generate the data set.

        Raises `UserError` if `data_dir` cannot be written, or if rows are too rare to be found.
        """
        return Examples(self._read(split), lambda i, row: self._example(f"{split}/{i}", row))

    def overlap(self, split: str = "test") -> int:
        """How many different questions of a split are also training questions.

        Zero for generated rows; with `train_file` or `test_file` it may be anything.
        """
        train, other = (set(map(self._dataset.key, self._read(s))) for s in ("train", split))
        return len(train & other)

    @abc.abstractmethod
    def _import_dataset(self) -> Any:
        """Imports the subclass of `GeneratedRows`.  TensorFlow Datasets takes a second to load."""

    @abc.abstractmethod
    def _read_file(self, source: str, field: str, split: str) -> list[tuple]:
        """Reads the rows of a file.  `field` is the configuration field that names it."""

    @abc.abstractmethod
    def _example(self, place: str, row: tuple) -> Example:
        """Makes the example of a row.  `place` is "SPLIT/POSITION"."""

    def _read(self, split: str) -> list[tuple]:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} must be one of {SPLITS}")
        if split not in self._rows:
            self._rows[split] = self._dataset.load(self._settings, self._data_dir, split)
        return self._rows[split]
