"""Generated Sudoku puzzles, as a TensorFlow Datasets builder.

1. A stream of candidate puzzles is drawn from the data seed for each number of blanks.
2. A hash of a puzzle's clues decides its split: 13/16 train, 1/16 validation, 2/16 test.  So no
   clues are ever in two splits, whatever the counts and seeds.
3. Each split takes as many puzzles as it needs from each stream, in order.

A stream depends on the data seed, the size, `unique` and the blanks, and not on the counts: a
split that grows keeps its examples of each number of blanks.
"""

import numpy as np

from diffpo_jax.config import SudokuConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import sudoku_grid, tfds_builder

Puzzle = tuple[str, str]  # clues and solution, as digits

_FIELD = "config.task.sudoku"
_ROUND = 1024  # candidates drawn at a time
_ROUND_CUT = 64  # the same for unique 9x9 puzzles, which cost milliseconds each


class SudokuPuzzles(tfds_builder.GeneratedRows, skip_registration=True):
    """Puzzles of one `SudokuConfig`: text features "clues" and "solution".

    Validation and test hold no clues twice while there are enough different ones.  If a number
    of blanks runs out (few 4x4 puzzles have 14 or more), its puzzles are repeated in turn.
    Training puzzles are independent draws.  The solution is the grid that the puzzle was cut
    from, which need not be its only completion unless `config.unique`.

    Drawing 30,000 4x4 puzzles takes less than a second.  A unique 9x9 puzzle takes 3 ms with 40
    blanks and 8 ms with 50; above about 55 blanks they become rare and much slower.
    """

    NAME = "sudoku"
    TITLE = "Sudoku puzzles"
    COLUMNS = ("clues", "solution")
    DISTINCT = True
    RARE = (
        "config.task.sudoku.blanks_max={s.blanks_max}: only {candidates} of {tries} tries gave a "
        "puzzle with {stratum} blanks and a unique completion. Lower blanks_max."
    )
    ABSENT = (
        "config.task.sudoku.blanks_min..blanks_max={s.blanks_min}..{s.blanks_max}: the few puzzles "
        "with {stratum} blanks are all in other splits than {split}."
    )

    @staticmethod
    def check(settings: SudokuConfig) -> None:
        if settings.size not in sudoku_grid.SIZES:
            raise UserError(f"{_FIELD}.size={settings.size} is unknown; use one of: 4, 9.")
        cells = settings.size**2
        for name in ("blanks_min", "blanks_max"):
            if not 0 <= getattr(settings, name) <= cells:
                raise UserError(
                    f"{_FIELD}.{name}={getattr(settings, name)} must lie in 0..{cells}: a "
                    f"{settings.size}x{settings.size} grid has {cells} cells."
                )
        if settings.blanks_min > settings.blanks_max:
            raise UserError(
                f"{_FIELD}.blanks_min={settings.blanks_min} is above "
                f"{_FIELD}.blanks_max={settings.blanks_max}."
            )
        most = cells - sudoku_grid.FEWEST_UNIQUE_CLUES[settings.size]
        if settings.unique and settings.blanks_max > most:
            raise UserError(
                f"{_FIELD}.blanks_max={settings.blanks_max}: with unique=True a {settings.size}x"
                f"{settings.size} puzzle has at most {most} blanks."
            )
        tfds_builder.check_counts(settings, _FIELD)

    @staticmethod
    def key(row: Puzzle) -> str:
        return row[0]

    @staticmethod
    def strata(settings: SudokuConfig) -> range:
        return range(settings.blanks_min, settings.blanks_max + 1)

    @staticmethod
    def draw_round(settings: SudokuConfig, stratum: int, number: int) -> tuple[list[Puzzle], int]:
        size, unique = settings.size, settings.unique
        rng = np.random.default_rng([settings.data_seed, size, int(unique), stratum, number])
        by_cutting = unique and size == 9
        tries = _ROUND_CUT if by_cutting else _ROUND
        grids = sudoku_grid.random_grids(size, tries, rng)
        if by_cutting:
            cuts = [sudoku_grid.cut_unique(grid, stratum, rng) for grid in grids]
            kept = np.array([clues is not None for clues in cuts])
            if not kept.any():
                return [], tries
            clues = np.stack([clues for clues in cuts if clues is not None])
        else:
            clues = sudoku_grid.cut(grids, stratum, rng)
            kept = np.ones(tries, bool)
            if unique:
                kept = sudoku_grid.count_completions(clues, 2) == 1
                clues = clues[kept]
        return list(zip(sudoku_grid.to_text(clues), sudoku_grid.to_text(grids[kept]))), tries
