"""The Sudoku task: fill in the empty cells of a 4x4 or 9x9 grid.

The question is the grid as digits, row by row, with 0 for an empty cell; the answer is the
complete grid in the same form.  Puzzles are generated, or read from files in the format of d1
(arXiv 2504.12216, repository dllm-reasoning/d1): CSV with the columns Puzzle and Solution.

Rewards:
  valid_grid: 1 if the answer is a complete valid grid that keeps every clue, else 0.  A puzzle
    may have several such grids; it does not matter which one is stored.
  cell_fraction: d1's training reward, the share of empty cells that equal the stored solution.

Protocol "default" counts valid grids as right.  "d1" trains on cell_fraction, reads answers as d1
does (`d1.sudoku`), and counts an answer as right if every empty cell equals the stored solution.
"""

import hashlib
import math
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import protocol
from diffpo_jax.tasks.answers import extract
from diffpo_jax.tasks.d1 import sudoku as d1
from diffpo_jax.tasks.datasets import hub, sudoku_grid
from diffpo_jax.tasks.generated import Generated
from diffpo_jax.tasks.task import Example, Layout, Reward

COLUMNS = ("Puzzle", "Solution")
WORDS = (
    "This is a {size}x{size} Sudoku, row by row, with 0 for each empty cell:\n{{question}}\n"
    "Fill in the empty cells such that every row, every column and every {side}x{side} box holds "
    "each of the digits 1 to {size} once. The answer is the whole grid: {cells} digits, row by "
    "row, with nothing between them. {{format}}"
)


def _read_digits(completion: str, kind: str, cells: int) -> str:
    """All digits of the answer, whatever other characters it has."""
    del cells
    return re.sub("[^0-9]", "", extract.read(completion, kind) or "")


class Sudoku(Generated):
    """Sudoku with generated puzzles, or with those of `train_file` and `test_file`."""

    name = "sudoku"
    difficulty_unit = "empty cells"
    PROTOCOLS = d1.protocols("valid_grid", _read_digits)
    REWARDS = dict.fromkeys(("valid_grid", "cell_fraction"), 1.0)

    def __init__(self, config: TaskConfig, data_dir: pathlib.Path):
        """See `Generated`."""
        size = config.sudoku.size
        side = math.isqrt(abs(size))  # a size that is not a square is refused below
        self.WORDS = WORDS.format(size=size, side=side, cells=size**2)
        super().__init__(config, data_dir)

    @staticmethod
    def lay_out(prompt: str, completion: str) -> Layout:
        """A board if the prompt has a puzzle and the completion only digits, else text."""
        grids = (read_grid(prompt, size**2) for size in sorted(sudoku_grid.SIZES, reverse=True))
        clues = next(filter(None, grids), "")
        if not re.fullmatch(f"[0-9]{{0,{len(clues)}}}", completion) or not clues:
            return Layout()
        size = math.isqrt(len(clues))
        wrong = _wrong_cells(completion, clues)
        verdict = ""
        if wrong:
            cells = "1 cell breaks" if len(wrong) == 1 else f"{len(wrong)} cells break"
            verdict = f"{cells} a rule of the puzzle."
        elif len(completion) == len(clues):
            verdict = "Every row, column and box has each digit once."
        given = [i for i, clue in enumerate(clues) if clue != "0"]
        return Layout(size, math.isqrt(size), given, wrong, verdict)

    @staticmethod
    def question_fault(text: str, config: TaskConfig) -> str:
        """A puzzle has a digit for each cell."""
        size = config.sudoku.size
        if len(text) == size**2 and re.fullmatch(f"[0-{size}]+", text):
            return ""
        odd = next((x for x in text if x not in "0123456789"[: size + 1]), None)
        return (
            f"has {len(text)} characters{f', with {odd!r} among them' if odd else ''}: a {size}x"
            f"{size} board needs {size**2} digits, 1 to {size}, and 0 for an empty cell"
        )

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion (see the module's docstring).  Never raises, whatever the text."""
        clues = example.meta["clues"]
        grid = read_grid(self._read_answer(completion) or "", len(clues))
        solved = grid is not None and _solves(grid, clues)
        own = protocol.Verdict(solved, grid is not None, grid)
        return self._grade(example, completion, own, {"valid_grid": float(solved)})

    def difficulty(self, example: Example) -> float:
        """The number of empty cells."""
        return float(example.meta["clues"].count("0"))

    def _import_dataset(self) -> Any:
        from diffpo_jax.tasks.datasets.sudoku import SudokuPuzzles

        return SudokuPuzzles

    def _read_file(self, source: str, field: str, split: str) -> list[tuple[str, str]]:
        return read_csv(source, field, self._config.sudoku.size)

    def _example(self, place: str, row: tuple[str, str]) -> Example:
        clues, solution = row
        side = math.isqrt(len(clues))
        digest = hashlib.sha256(clues.encode()).hexdigest()[:8]
        return self._wording.example(
            id=f"sudoku-{side}x{side}/{place}-{digest}",
            fields={"question": clues},
            answer=solution,
            meta={"clues": clues, "solution": solution},
        )


def read_grid(text: str, cells: int) -> str | None:
    """The grid in an answer: the last run of exactly `cells` digits 0-9, or None.

    Whitespace is removed first, so a grid may be broken into lines or spaced out.  Any other
    character ends a run.
    """
    runs = re.findall("[0-9]+", re.sub(r"\s", "", text))
    return next((run for run in reversed(runs) if len(run) == cells), None)


def read_csv(path: str, field: str, size: int) -> list[tuple[str, str]]:
    """Reads and checks a file in d1's format: a header, then Puzzle,Solution in digits.

    Raises `UserError` on a missing column or a faulty row, with its line.
    """
    rows, places = [], []
    for row in hub.read_file(pathlib.Path(path), f"{field}={path}", suffix=".csv"):
        if missing := [c for c in COLUMNS if c not in row.values]:
            raise UserError(f"{field}={path}: line 1 has no column {missing[0]}.")
        rows.append(tuple((row.values[c] or "").strip() for c in COLUMNS))
        places.append(row.where)
        if fault := _fault_of_text(rows[-1], size):
            raise UserError(f"{row.where}: {fault}.")
    if not rows:
        raise UserError(f"{field}={path} has no puzzle.")
    for i, fault in _faults_of_grids(rows, size):
        raise UserError(f"{places[i]}: {fault}.")
    return rows


def _fault_of_text(row: tuple[str, str], size: int) -> str:
    """What is wrong with the characters of one row, or ""."""
    for column, text, least in zip(COLUMNS, row, (0, 1)):
        if len(text) != size * size:
            return f"{column} has {len(text)} characters instead of {size * size}"
        if odd := re.search(f"[^{least}-{size}]", text):
            return f"{column} has {odd[0]!r}; only the digits {least} to {size} are allowed"
    return ""


def _faults_of_grids(rows: list[tuple[str, str]], size: int) -> Iterator[tuple[int, str]]:
    """(row, what is wrong) for each faulty row, in order."""
    chunk = 65_536  # rows checked at a time, to bound the memory
    for start in range(0, len(rows), chunk):
        clues, grids = (sudoku_grid.from_text(c) for c in zip(*rows[start : start + chunk]))
        checks = {
            "Puzzle has a digit twice in a row, column or box": sudoku_grid.is_consistent(clues),
            "Solution is not a valid grid": sudoku_grid.is_valid_grid(grids),
            "Solution changes a digit of Puzzle": ((clues == 0) | (clues == grids)).all(axis=1),
        }
        for i in np.nonzero(~np.all(list(checks.values()), axis=0))[0].tolist():
            yield start + i, next(fault for fault, fine in checks.items() if not fine[i])


def _wrong_cells(answer: str, clues: str) -> list[int]:
    """The cells of an answer, which may lack some, that break a rule, in order.

    They change a clue, are no digit of the puzzle, or have the digit of another cell of their row,
    column or box; a clue that is kept is not to blame for that.
    """
    size = math.isqrt(len(clues))
    kept = [clue == digit != "0" for clue, digit in zip(clues, answer)]
    wrong = {
        i
        for i, (clue, digit) in enumerate(zip(clues, answer))
        if not kept[i] and (clue != "0" or not "1" <= digit <= str(size))
    }
    for unit in sudoku_grid.units(size).tolist():
        digits = [answer[i] for i in unit if i < len(answer)]
        twice = (i for i in unit if i < len(answer) and digits.count(answer[i]) > 1)
        wrong |= {i for i in twice if not kept[i]}
    return sorted(wrong)


def _solves(answer: str, clues: str) -> bool:
    if any(clue not in ("0", digit) for clue, digit in zip(clues, answer)):
        return False
    size = math.isqrt(len(clues))
    if min(answer) < "1" or max(answer) > str(size):
        return False
    # Sets of characters and not sudoku_grid, which is slow for one grid at a time.
    units = sudoku_grid.units(size).tolist()
    return all(len({answer[cell] for cell in unit}) == size for unit in units)
