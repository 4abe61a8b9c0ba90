"""Sudoku grids as numpy arrays: validity, random grids, cutting puzzles, counting completions.

A grid has `size * size` digits, row by row from the top left, with 0 for an empty cell; `size` is 4
(2x2 boxes) or 9 (3x3 boxes).  Functions take and return many grids at once, [N, size * size] uint8,
unless their docstrings name another shape.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

SIZES = (4, 9)
FEWEST_UNIQUE_CLUES = {4: 4, 9: 17}  # 9x9: McGuire, Tugemann, Civario, arXiv 1201.0749

_COPIES = 32  # 9x9 grids made from one searched grid by symmetries


@functools.cache
def units(size: int) -> np.ndarray:
    """The cell numbers of every row, column and box: [3 * size, size]."""
    cells = np.arange(size * size).reshape(size, size)
    side = math.isqrt(size)
    boxes = cells.reshape(side, side, side, side).swapaxes(1, 2).reshape(size, size)
    result = np.concatenate([cells, cells.T, boxes])
    result.flags.writeable = False
    return result


def from_text(texts: Sequence[str]) -> np.ndarray:
    """Grids from strings of ASCII digits, all of the same length."""
    joined = "".join(texts).encode("ascii")
    grids = np.frombuffer(joined, np.uint8) - np.uint8(ord("0"))
    return grids.reshape(len(texts), -1)


def to_text(grids: np.ndarray) -> list[str]:
    """Grids as strings of digits; the inverse of `from_text`."""
    cells = grids.shape[1]
    joined = (grids.astype(np.uint8) + np.uint8(ord("0"))).tobytes().decode("ascii")
    return [joined[i : i + cells] for i in range(0, len(joined), cells)]


def is_consistent(clues: np.ndarray) -> np.ndarray:
    """Whether all digits are in range and none is twice in a row, column or box: [N] bool."""
    size = math.isqrt(clues.shape[1])
    fine = (clues <= size).all(axis=1)
    for digit in range(1, size + 1):
        per_unit = (clues == digit)[:, units(size)].sum(axis=-1)
        fine &= (per_unit <= 1).all(axis=1)
    return fine


def is_valid_grid(grids: np.ndarray) -> np.ndarray:
    """Whether every row, column and box has every digit once: [N] bool."""
    return (grids > 0).all(axis=1) & is_consistent(grids)


@functools.cache
def all_grids_4x4() -> np.ndarray:
    """The 288 complete 4x4 grids in lexicographic order: [288, 16]."""
    grids = np.array(sorted(_completions([0] * 16)), np.uint8)
    grids.flags.writeable = False
    return grids


def random_grids(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Complete random grids, [count, size * size].

    4x4 grids are uniform over all 288.  9x9 grids are NOT uniform: a randomised search finds one
    of every 32 grids, and random symmetries (relabelled digits, permuted bands, stacks, rows and
    columns, transposition) of it are the other 31.
    """
    if size == 4:
        return all_grids_4x4()[rng.integers(288, size=count)]
    empty = [0] * (size * size)
    searched = [next(_completions(empty, rng)) for _ in range(-(-count // _COPIES))]
    grids = np.array(searched, np.uint8).reshape(-1, size * size)
    return _apply_symmetries(np.repeat(grids, _COPIES, axis=0)[:count], rng)


def cut(grids: np.ndarray, blanks: int, rng: np.random.Generator) -> np.ndarray:
    """Empties `blanks` cells of each grid.  Every choice of cells is equally likely."""
    ranks = rng.random(grids.shape).argsort(axis=1).argsort(axis=1)
    return np.where(ranks < blanks, np.uint8(0), grids)


def cut_unique(grid: np.ndarray, blanks: int, rng: np.random.Generator) -> np.ndarray | None:
    """Empties `blanks` cells of one complete grid [size * size] that stays the only completion.

    Cells are visited once in random order, and emptied if the completion stays unique.  Unlike
    random cells, this reaches puzzles with few clues.

    Returns:
      The clues, or None if the order does not reach `blanks` empty cells.
    """
    cells = grid.tolist()
    left = blanks
    for cell in rng.permutation(len(cells)).tolist():
        if left == 0:
            break
        digit = cells[cell]
        cells[cell] = 0
        if _has_completion_without(cells, cell, digit):
            cells[cell] = digit
        else:
            left -= 1
    return np.array(cells, np.uint8) if left == 0 else None


def count_completions(clues: np.ndarray, limit: int) -> np.ndarray:
    """The number of complete grids that keep the clues, at most `limit`: [N] int64.

    4x4 puzzles are compared with all 288 grids; 9x9 puzzles are searched one by one.
    """
    if clues.shape[1] == 16:
        agreeing = (clues[:, None] == 0) | (clues[:, None] == all_grids_4x4())
        return np.minimum(agreeing.all(axis=2).sum(axis=1), limit)
    return np.array([search_completions(row, limit) for row in clues], np.int64)


def search_completions(clues: np.ndarray, limit: int) -> int:
    """`count_completions` by depth-first search, for one puzzle of any size."""
    return sum(1 for _ in itertools.islice(_completions(clues.tolist()), limit))


def _completions(
    clues: Sequence[int], rng: np.random.Generator | None = None
) -> Iterator[list[int]]:
    """Yields the completions of one puzzle.  Given `rng`, digits are tried in random order."""
    size = math.isqrt(len(clues))
    full = (1 << size) - 1
    groups = _groups(size)
    used = [0] * (3 * size)  # the digits in each unit, one bit each
    for digit, (row, column, box) in zip(clues, groups):
        if digit:
            bit = 1 << (digit - 1)
            if (used[row] | used[column] | used[box]) & bit:
                return
            used[row] |= bit
            used[column] |= bit
            used[box] |= bit
    cells = list(clues)
    empty = [cell for cell, digit in enumerate(clues) if not digit]

    def search() -> Iterator[list[int]]:
        if not empty:
            yield list(cells)
            return
        # Fill the cell with the fewest candidates: a dead end has none, and is found at once.
        fewest, best, options = size + 1, 0, 0
        for place, cell in enumerate(empty):
            row, column, box = groups[cell]
            candidates = full & ~(used[row] | used[column] | used[box])
            number = candidates.bit_count()
            if number < fewest:
                fewest, best, options = number, place, candidates
                if number <= 1:
                    break
        if not options:
            return
        cell = empty[best]
        empty[best] = empty[-1]
        empty.pop()
        row, column, box = groups[cell]
        bits = [1 << i for i in range(size) if options >> i & 1]
        if rng is not None and len(bits) > 1:
            bits = [bits[i] for i in rng.permutation(len(bits)).tolist()]
        for bit in bits:
            cells[cell] = bit.bit_length()
            used[row] ^= bit
            used[column] ^= bit
            used[box] ^= bit
            yield from search()
            used[row] ^= bit
            used[column] ^= bit
            used[box] ^= bit
        empty.append(cell)
        empty[best], empty[-1] = empty[-1], empty[best]

    yield from search()


@functools.cache
def _groups(size: int) -> tuple[tuple[int, ...], ...]:
    """The three units of each cell, as row numbers of `units`."""
    members = units(size)
    return tuple(
        tuple(np.nonzero((members == cell).any(axis=1))[0].tolist()) for cell in range(size**2)
    )


def _has_completion_without(cells: list[int], cell: int, digit: int) -> bool:
    """Whether the puzzle has a completion with another digit than `digit` in `cell`."""
    size = math.isqrt(len(cells))
    members = units(size)
    taken = {cells[other] for unit in _groups(size)[cell] for other in members[unit].tolist()}
    for other in range(1, size + 1):
        if other != digit and other not in taken:
            trial = [*cells[:cell], other, *cells[cell + 1 :]]
            if next(_completions(trial), None) is not None:
                return True
    return False


def _apply_symmetries(grids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies a random symmetry of Sudoku to each grid.  Valid grids stay valid."""
    count, cells = grids.shape
    size = math.isqrt(cells)
    side = math.isqrt(size)

    def order() -> np.ndarray:  # bands stay together, and rows within a band
        bands = rng.random((count, side, 1)).argsort(axis=1) * side
        within = rng.random((count, side, side)).argsort(axis=2)
        return (bands + within).reshape(count, size)

    rows, columns = order(), order()
    squares = grids.reshape(count, size, size)
    each = np.arange(count)[:, None, None]
    squares = squares[each, rows[:, :, None], columns[:, None, :]]
    transposed = rng.random((count, 1, 1)) < 0.5
    squares = np.where(transposed, squares.swapaxes(1, 2), squares)
    names = rng.random((count, size)).argsort(axis=1).astype(np.uint8) + np.uint8(1)
    return names[each, squares - 1].reshape(count, cells)
