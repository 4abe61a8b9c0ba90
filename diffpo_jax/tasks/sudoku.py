"""The Sudoku task: fill the empty cells of a 4x4 or 9x9 grid.

The question is the grid as digits, row by row, '0' for an empty cell; the answer is the complete
grid in the same form.  Puzzles are generated, or read from files in the format of d1 (arXiv
2504.12216, repository dllm-reasoning/d1): CSV with columns Puzzle and Solution.

Rewards:
  valid_grid: 1 if the answer is a complete valid grid that keeps every clue, else 0.  A
    puzzle may have several such grids; which of them is stored does not matter.
  cell_fraction: d1's training reward, the share of the empty cells that equal the stored
    solution.

Protocol "default" counts valid grids as right.  "d1" trains on cell_fraction and reads answers as
d1 does (`d1_sudoku`); there an answer is right when every empty cell equals the stored solution.
"""

import csv
import functools
import hashlib
import math
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.answers import extract
from diffpo_jax.tasks.d1 import sudoku
from diffpo_jax.tasks.datasets import sudoku_grid
from diffpo_jax.tasks.task import SPLITS, Example, Examples, OneByOne, Reward, choose_reward
from diffpo_jax.tasks.wording import Wording

REWARDS = ("valid_grid", "cell_fraction")
COLUMNS = ("Puzzle", "Solution")
FIELDS = ("question",)  # of prompt templates: the clues
WORDS = (
    "This is a {size}x{size} Sudoku, row by row, with 0 for each empty cell:\n{{question}}\n"
    "Fill in the empty cells such that every row, every column and every {side}x{side} box holds "
    "each of the digits 1 to {size} once. The answer is the whole grid: {cells} digits, row by "
    "row, with nothing between them. {{format}}"
)


class Sudoku(OneByOne):
    """Sudoku with generated puzzles, or with those of `train_file` and `test_file`."""

    name = "sudoku"
    reward_max = 1.0

    def __init__(self, config: TaskConfig, data_dir: pathlib.Path):
        """Checks the settings and reads the files; puzzles are generated when asked for.

        Args:
          config: the section `config.task`.
          data_dir: where generated puzzles are kept.

        Raises:
          UserError: settings no puzzle can meet, an unknown reward, a faulty file.
        """
        # Here and not above: TensorFlow Datasets takes a second to import.
        from diffpo_jax.tasks.datasets import sudoku as dataset

        self._reward = choose_reward(config.reward, config.protocol, REWARDS, "cell_fraction")
        dataset.check_settings(config.sudoku)
        size = config.sudoku.size
        words = WORDS.format(size=size, side=math.isqrt(size), cells=size**2)
        self._wording = Wording(config.prompt, words, FIELDS)
        self._load_generated = dataset.load
        self._config = config
        self._data_dir = data_dir
        self._splits: dict[str, Sequence[Example]] = {}
        for split, path in (("train", config.train_file), ("test", config.test_file)):
            if path:
                puzzles = read_csv(path, f"config.task.{split}_file", config.sudoku.size)
                self._splits[split] = self._examples(puzzles, split)

    def examples(self, split: str) -> Sequence[Example]:
        """Examples of a split in a fixed order; the first call may generate the data set.

        Raises:
          UserError: the data directory cannot be written, or puzzles cannot be found.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {SPLITS}")
        if split not in self._splits:
            puzzles = self._load_generated(self._config.sudoku, self._data_dir, split)
            self._splits[split] = self._examples(puzzles, split)
        return self._splits[split]

    def overlap(self, split: str = "test") -> int:
        """How many different clues of a split are also training clues.

        Zero for generated puzzles; with `train_file` or `test_file` it may be anything.
        """
        train, other = (
            {example.meta["clues"] for example in self.examples(name)} for name in ("train", split)
        )
        return len(train & other)

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion (see the module's head).  Never raises, whatever the text."""
        kind, clues = self._config.prompt.answer, example.meta["clues"]
        text = extract.read(completion, kind) or ""
        answer = read_answer(text, len(clues))
        solved, parsed = answer is not None and _solves(answer, clues), answer is not None
        correct, digits = solved, _digits(text)
        if self._config.protocol == "d1":
            digits, grid = (
                sudoku.reward_digits(completion, kind),
                self._grid(example, completion),
            )
            right, empty = _count_cells(example, grid)
            correct, parsed, answer = right == empty > 0, bool(grid), grid or None
        right, empty = _count_cells(example, digits)
        parts = {
            "valid_grid": float(solved),
            "cell_fraction": right / empty if empty else 0.0,
        }
        return Reward(parts[self._reward], parts, correct=correct, parsed=parsed, answer=answer)

    def scores(self, examples: Sequence[Example], completions: Sequence[str]) -> dict[str, float]:
        """The share of right cells, d1's metric: `cell_accuracy`."""
        grids = [self._grid(e, c) for e, c in zip(examples, completions, strict=True)]
        return {"cell_accuracy": cell_accuracy(examples, grids)}

    def difficulty(self, example: Example) -> float:
        """The number of empty cells."""
        return float(example.meta["clues"].count("0"))

    def _grid(self, example: Example, completion: str) -> str:
        """The grid whose cells are compared with the stored solution, by the protocol."""
        if self._config.protocol == "d1":
            return sudoku.evaluation_grid(completion, len(example.meta["clues"]))
        return _digits(extract.read(completion, self._config.prompt.answer) or "")

    def _examples(self, puzzles: Sequence[tuple[str, str]], split: str) -> Examples:
        def make(position: int, puzzle: tuple[str, str]) -> Example:
            clues, solution = puzzle
            side = math.isqrt(len(clues))
            digest = hashlib.sha256(clues.encode()).hexdigest()[:8]
            return self._wording.example(
                id=f"sudoku-{side}x{side}/{split}/{position}-{digest}",
                fields={"question": clues},
                answer=solution,
                meta={"clues": clues, "solution": solution},
            )

        return Examples(puzzles, make)


def read_answer(text: str, cells: int) -> str | None:
    """The grid in a completion: the last run of exactly `cells` digits 0-9.

    Whitespace is removed first, so a grid may be broken into lines or spaced out; any other
    character ends a run.  None where there is no such run.
    """
    runs = re.findall("[0-9]+", re.sub(r"\s", "", text))
    return next((run for run in reversed(runs) if len(run) == cells), None)


def cell_accuracy(examples: Sequence[Example], grids: Sequence[str]) -> float:
    """d1's metric for Sudoku: right cells over empty cells, summed over all examples.

    A cell is right when it equals the stored solution.  0 where nothing is empty.  (d1 reports
    per cent.)

    Args:
      grids: what was read from each completion; missing cells count as empty, surplus ones are
        cut off.
    """
    counts = [_count_cells(e, g) for e, g in zip(examples, grids, strict=True)]
    right, empty = (sum(column) for column in zip(*counts)) if counts else (0, 0)
    return right / empty if empty else 0.0


def read_csv(path: str, field: str, size: int) -> list[tuple[str, str]]:
    """Reads and checks a file in d1's format: a header, then Puzzle,Solution in digits.

    Args:
      path: the file.
      field: the configuration field that names it, for messages.
      size: 4 or 9.

    Returns:
      (clues, solution) per row.

    Raises:
      UserError: no such file, a missing column, or a faulty row (with its line).
    """
    where = f"{field}={path}"
    rows, lines = [], []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None:
                raise UserError(f"{where} is empty.")
            missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{where}: line 1 has no column {' and no column '.join(missing)}.")
            for row in reader:
                rows.append(tuple((row[column] or "").strip() for column in COLUMNS))
                lines.append(reader.line_num)
                if fault := _fault_of_text(rows[-1], size):
                    raise UserError(f"{where}: line {lines[-1]}: {fault}.")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where} cannot be read: {error}.") from error
    if not rows:
        raise UserError(f"{where} holds no puzzle.")
    for i, fault in _faults_of_grids(rows, size):
        raise UserError(f"{where}: line {lines[i]}: {fault}.")
    return rows


def _fault_of_text(row: tuple[str, str], size: int) -> str:
    """What is wrong with the characters of one row; empty if nothing is."""
    for column, text, least in zip(COLUMNS, row, (0, 1)):
        if len(text) != size * size:
            return f"{column} has {len(text)} characters instead of {size * size}"
        odd = re.search(f"[^{least}-{size}]", text)
        if odd and odd[0] in "0123456789":
            return f"{column} holds the digit {odd[0]}, outside {least}..{size}"
        if odd:
            return f"{column} holds {odd[0]!r}, which is no digit"
    return ""


def _faults_of_grids(rows: list[tuple[str, str]], size: int) -> Iterator[tuple[int, str]]:
    """(row, what is wrong) for each faulty row, in order."""
    chunk = 65_536  # rows checked at once, to bound the memory
    for start in range(0, len(rows), chunk):
        clues, grids = (sudoku_grid.from_text(c) for c in zip(*rows[start : start + chunk]))
        checks = {
            "Puzzle has a digit twice in a row, column or box": sudoku_grid.is_consistent(clues),
            "Solution is not a valid grid": sudoku_grid.is_valid_grid(grids),
            "Solution changes a digit of Puzzle": ((clues == 0) | (clues == grids)).all(axis=1),
        }
        for i in np.nonzero(~np.all(list(checks.values()), axis=0))[0].tolist():
            yield start + i, next(fault for fault, fine in checks.items() if not fine[i])


def _solves(answer: str, clues: str) -> bool:
    if any(clue not in ("0", digit) for clue, digit in zip(clues, answer)):
        return False
    size = math.isqrt(len(clues))
    if min(answer) < "1" or max(answer) > str(size):
        return False
    # Sets of characters and not sudoku_grid, which is slow for one grid at a time.
    return all(len({answer[cell] for cell in unit}) == size for unit in _units(size))


@functools.cache
def _units(size: int) -> list[list[int]]:
    return sudoku_grid.units(size).tolist()


def _digits(text: str) -> str:
    """All digits of a text; other characters do not count."""
    return re.sub("[^0-9]", "", text)


def _count_cells(example: Example, grid: str) -> tuple[int, int]:
    """(empty cells that equal the stored solution, empty cells)."""
    clues, solution = example.meta["clues"], example.meta["solution"]
    grid = grid[: len(clues)].ljust(len(clues), "0")
    empty = [cell for cell, clue in enumerate(clues) if clue == "0"]
    return sum(grid[cell] == solution[cell] for cell in empty), len(empty)
