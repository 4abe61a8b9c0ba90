"""Generated Sudoku puzzles as a TensorFlow Datasets builder; TensorFlow is not needed.

1. For each number of blanks a stream of candidate puzzles is drawn from the data seed.
2. A hash of a puzzle's clues decides its split: 13/16 train, 1/16 validation, 2/16 test.
   No clues are ever in two splits, whatever the counts and seeds.
3. Each split takes from each stream, in order, as many puzzles as it needs; example i has
   `blanks_min + i % (number of strata)` blanks, so any prefix is balanced too.

A stream depends on the data seed, the size, `unique` and the blanks, not on the counts: a
split that grows keeps its examples in each stratum.
"""

import pathlib

import numpy as np

from diffpo_jax.config import SudokuConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import sudoku_grid, tfds_builder
from diffpo_jax.tasks.datasets.tfds_builder import split_of

__all__ = ["SudokuPuzzles", "check_settings", "draw", "load", "prepare", "split_of"]

Puzzle = tuple[str, str]  # clues and solution, as digits

_FIELD = "config.task.sudoku"
_ROUND = 1024  # candidates drawn at a time
_ROUND_CUT = 64  # the same for unique 9x9 puzzles, which cost milliseconds each


class SudokuPuzzles(tfds_builder.GeneratedRows, skip_registration=True):
    """Puzzles of one `SudokuConfig`: text features "clues" and "solution"."""

    NAME = "sudoku"
    TITLE = "Sudoku puzzles"
    COLUMNS = ("clues", "solution")

    def draw(self) -> dict[str, list[Puzzle]]:
        return draw(self.settings)


def check_settings(config: SudokuConfig) -> None:
    """Raises `UserError`, naming the field, on settings that no puzzle can meet."""
    if config.size not in sudoku_grid.SIZES:
        raise UserError(f"{_FIELD}.size={config.size} is unknown; use one of: 4, 9.")
    cells = config.size**2
    for name in ("blanks_min", "blanks_max"):
        if not 0 <= getattr(config, name) <= cells:
            raise UserError(
                f"{_FIELD}.{name}={getattr(config, name)} must lie in 0..{cells}: a "
                f"{config.size}x{config.size} grid has {cells} cells."
            )
    if config.blanks_min > config.blanks_max:
        raise UserError(
            f"{_FIELD}.blanks_min={config.blanks_min} is above "
            f"{_FIELD}.blanks_max={config.blanks_max}."
        )
    most = cells - sudoku_grid.FEWEST_UNIQUE_CLUES[config.size]
    if config.unique and config.blanks_max > most:
        raise UserError(
            f"{_FIELD}.blanks_max={config.blanks_max}: with unique=True a {config.size}x"
            f"{config.size} puzzle has at most {most} blanks."
        )
    tfds_builder.check_counts(config, _FIELD)


def draw(config: SudokuConfig) -> dict[str, list[Puzzle]]:
    """Draws the puzzles of every split.

    The numbers of blanks are equally frequent in a split (counts differ by one at most).
    Validation and test hold no clues twice while there are enough different ones; where a
    stratum runs out (few 4x4 puzzles have 14 or more blanks), the ones it has are repeated
    in turn.  Training puzzles are independent draws.  The solution is the grid the puzzle
    was cut from, which need not be its only completion unless `config.unique`.

    Drawing 30,000 4x4 puzzles takes less than a second.  A unique 9x9 puzzle takes 3 ms with
    40 blanks and 8 ms with 50; above 55 or so blanks they become rare and much slower.

    Raises:
      UserError: settings that `check_settings` refuses, unique puzzles too rare to be
        found, or a number of blanks of which a split has no puzzle at all.
    """
    check_settings(config)
    return tfds_builder.deal(
        config,
        range(config.blanks_min, config.blanks_max + 1),
        lambda blanks, wanted: _draw_stratum(config, blanks, wanted),
    )


def load(config: SudokuConfig, data_dir: pathlib.Path, split: str) -> list[Puzzle]:
    """One split of the puzzles, as `tfds_builder.load` reads it.  Raises like it and `draw`."""
    check_settings(config)
    return tfds_builder.load(SudokuPuzzles, config, data_dir, split)


def prepare(config: SudokuConfig, data_dir: pathlib.Path) -> SudokuPuzzles:
    """Writes the puzzles unless they are there: `tfds_builder.prepare`."""
    check_settings(config)
    return tfds_builder.prepare(SudokuPuzzles, config, data_dir)


def _draw_stratum(
    config: SudokuConfig, blanks: int, wanted: dict[str, int]
) -> dict[str, list[Puzzle]]:
    """The first puzzles with this number of blanks, `wanted[split]` for each split."""

    def draw_round(number: int) -> tuple[list[Puzzle], int]:
        seed = [config.data_seed, config.size, int(config.unique), blanks, number]
        return _draw_candidates(config, blanks, np.random.default_rng(seed))

    def rare(candidates: int, tries: int) -> str:
        return (
            f"{_FIELD}.blanks_max={config.blanks_max}: only {candidates} of {tries} tries "
            f"gave a puzzle with {blanks} blanks and a unique completion. Lower blanks_max."
        )

    def absent(split: str) -> str:
        return (
            f"{_FIELD}.blanks_min..blanks_max={config.blanks_min}..{config.blanks_max}: "
            f"the few puzzles with {blanks} blanks are all in other splits than {split}."
        )

    def clues(puzzle: Puzzle) -> str:
        return puzzle[0]

    return tfds_builder.fill(wanted, draw_round, clues, prompt=clues, rare=rare, absent=absent)


def _draw_candidates(
    config: SudokuConfig, blanks: int, rng: np.random.Generator
) -> tuple[list[Puzzle], int]:
    """Some puzzles with this number of blanks, and how many tries they took."""
    by_cutting = config.unique and config.size == 9
    tries = _ROUND_CUT if by_cutting else _ROUND
    grids = sudoku_grid.random_grids(config.size, tries, rng)
    if by_cutting:
        cuts = [sudoku_grid.cut_unique(grid, blanks, rng) for grid in grids]
        kept = np.array([clues is not None for clues in cuts])
        if not kept.any():
            return [], tries
        clues = np.stack([clues for clues in cuts if clues is not None])
    else:
        clues = sudoku_grid.cut(grids, blanks, rng)
        kept = np.ones(tries, bool)
        if config.unique:
            kept = sudoku_grid.count_completions(clues, 2) == 1
            clues = clues[kept]
    return list(zip(sudoku_grid.to_text(clues), sudoku_grid.to_text(grids[kept]))), tries
