import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpo_jax.tasks.datasets import sudoku_grid

SOLVED = "1234341221434321"


def grid(*texts):
    return sudoku_grid.from_text(texts)


def brute_force(clues):
    """Completions of one 4x4 puzzle, by comparing it with all 288 grids one by one."""
    return sum(
        all(c in (0, d) for c, d in zip(clues, complete))
        for complete in sudoku_grid.all_grids_4x4().tolist()
    )


def test_units_of_a_4x4_grid_by_hand():
    units = sudoku_grid.units(4).tolist()
    assert units[1] == [4, 5, 6, 7]  # second row
    assert units[6] == [2, 6, 10, 14]  # third column
    assert units[8:] == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("size", [4, 9])
def test_every_cell_lies_in_three_units(size):
    cells, times = np.unique(sudoku_grid.units(size), return_counts=True)
    assert cells.tolist() == list(range(size * size))
    assert set(times) == {3}


def test_the_288_grids_are_valid_and_in_order():
    grids = sudoku_grid.all_grids_4x4()
    texts = sudoku_grid.to_text(grids)
    assert len(set(texts)) == 288
    assert texts == sorted(texts)
    assert texts[0] == SOLVED
    # Checked with sets, and not with the search that found them.
    for row in grids.tolist():
        for unit in sudoku_grid.units(4).tolist():
            assert {row[cell] for cell in unit} == {1, 2, 3, 4}


def test_text_and_grids_are_inverse():
    texts = ["0123401234012340", SOLVED]
    grids = grid(*texts)
    assert grids.shape == (2, 16)
    assert grids[0, :5].tolist() == [0, 1, 2, 3, 4]
    assert sudoku_grid.to_text(grids) == texts


@pytest.mark.parametrize(
    ("clues", "fine"),
    [
        ("0000000000000000", True),
        ("1000001000000000", True),  # a different row, column and box
        ("1001000000000000", False),  # row
        ("1000000000001000", False),  # column
        ("1000010000000000", False),  # box
        ("5000000000000000", False),  # no such digit
        (SOLVED, True),
    ],
)
def test_is_consistent_by_hand(clues, fine):
    assert sudoku_grid.is_consistent(grid(clues)).tolist() == [fine]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (SOLVED, True),
        ("0234341221434321", False),  # an empty cell
        ("1234123412341234", False),  # right rows only
        ("1234234134124123", False),  # right rows and columns, wrong boxes
        ("5678785665878765", False),  # other digits
    ],
)
def test_is_valid_grid_by_hand(text, valid):
    assert sudoku_grid.is_valid_grid(grid(text)).tolist() == [valid]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([4, 9]), st.integers(0, 100), st.integers(0, 2**32))
def test_random_grids_are_valid(size, count, seed):
    grids = sudoku_grid.random_grids(size, count, np.random.default_rng(seed))
    assert grids.shape == (count, size * size)
    assert sudoku_grid.is_valid_grid(grids).all()


def test_random_4x4_grids_are_uniform():
    grids = sudoku_grid.random_grids(4, 28_800, np.random.default_rng(0))
    _, times = np.unique(grids, axis=0, return_counts=True)
    assert len(times) == 288
    # 100 expected each, standard deviation 10.
    assert times.min() > 50 and times.max() < 150


def test_random_9x9_grids_differ():
    grids = sudoku_grid.random_grids(9, 200, np.random.default_rng(0))
    assert len(np.unique(grids, axis=0)) == 200
    # Not only relabelled: the cells of digit grid[0, 0] differ too.
    assert len(np.unique(grids == grids[:, :1], axis=0)) > 150


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([4, 9]), st.data())
def test_cut_empties_exactly_the_given_number_of_cells(size, data):
    blanks = data.draw(st.integers(0, size * size))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    grids = sudoku_grid.random_grids(size, 8, rng)
    clues = sudoku_grid.cut(grids, blanks, rng)
    assert ((clues == 0).sum(axis=1) == blanks).all()
    assert ((clues == 0) | (clues == grids)).all()


def test_cut_empties_all_cells_equally_often():
    clues = sudoku_grid.cut(np.ones((8000, 16), np.uint8), 4, np.random.default_rng(0))
    share = (clues == 0).mean(axis=0)
    assert np.abs(share - 0.25).max() < 0.02  # standard error 0.005


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=16, max_size=16))
def test_count_completions_of_any_clues_equals_brute_force(clues):
    expected = brute_force(clues)
    row = np.array([clues], np.uint8)
    assert sudoku_grid.count_completions(row, 1000).tolist() == [expected]
    assert sudoku_grid.search_completions(row[0], 1000) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 287), st.sets(st.integers(0, 15)), st.integers(1, 300))
def test_count_completions_of_cut_grids_equals_brute_force(number, emptied, limit):
    clues = sudoku_grid.all_grids_4x4()[number].copy()
    clues[list(emptied)] = 0
    expected = min(brute_force(clues.tolist()), limit)
    assert sudoku_grid.count_completions(clues[None], limit).tolist() == [expected]
    assert sudoku_grid.search_completions(clues, limit) == expected


def test_count_completions_by_hand():
    # Rows 1 and 3 of the solved grid start with 1 2 and 2 1: these may be exchanged.
    two = "0034341200434321"
    assert sudoku_grid.count_completions(grid(SOLVED, two, "0" * 16), 1000).tolist() == [1, 2, 288]
    assert sudoku_grid.count_completions(grid(SOLVED, two, "0" * 16), 2).tolist() == [1, 2, 2]


def test_count_completions_of_9x9_puzzles():
    rng = np.random.default_rng(1)
    complete = sudoku_grid.random_grids(9, 1, rng)[0]
    nearly_empty = np.where(np.arange(81) < 5, complete, 0).astype(np.uint8)
    twice = nearly_empty.copy()
    twice[80] = twice[79] = 3
    no_room = np.zeros(81, np.uint8)  # the first cell has 1..8 in its row and 9 in its column
    no_room[1:9] = range(1, 9)
    no_room[36] = 9
    rows = np.stack([complete, nearly_empty, twice, no_room])
    assert sudoku_grid.count_completions(rows, 7).tolist() == [1, 7, 0, 0]


@pytest.mark.parametrize(("size", "blanks"), [(4, 9), (9, 30), (9, 45)])
def test_cut_unique_leaves_one_completion(size, blanks):
    rng = np.random.default_rng(2)
    for complete in sudoku_grid.random_grids(size, 4, rng):
        clues = sudoku_grid.cut_unique(complete, blanks, rng)
        assert (clues == 0).sum() == blanks
        assert ((clues == 0) | (clues == complete)).all()
        assert sudoku_grid.search_completions(clues, 2) == 1


def test_cut_unique_returns_none_if_it_fails():
    rng = np.random.default_rng(0)
    for complete in sudoku_grid.all_grids_4x4()[:5]:
        assert sudoku_grid.cut_unique(complete, 13, rng) is None


def test_no_4x4_puzzle_with_three_clues_is_unique():
    # This checks FEWEST_UNIQUE_CLUES on all puzzles cut from one grid.
    complete = sudoku_grid.all_grids_4x4()[0]
    clues = np.zeros((560, 16), np.uint8)
    for row, kept in enumerate(itertools.combinations(range(16), 3)):
        clues[row, kept] = complete[list(kept)]
    assert (sudoku_grid.count_completions(clues, 2) == 2).all()
