import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpo_jax.config import SudokuConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import sudoku, sudoku_grid, tfds_builder
from diffpo_jax.tasks.datasets.sudoku import SudokuPuzzles
from diffpo_jax.tasks.task import SPLITS

SMALL = SudokuConfig(train_examples=60, validation_examples=11, test_examples=25)


def counts(train=0, validation=0, test=0, **other):
    return SudokuConfig(
        train_examples=train, validation_examples=validation, test_examples=test, **other
    )


def run(code, *args, **kwargs):
    """Runs `code` in another process that can import the project."""
    root = pathlib.Path(sudoku.__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


@pytest.mark.parametrize(
    ("clues", "split"),
    [
        ("0000000000000000", "train"),
        ("0000000000000004", "test"),
        ("0030000000000000", "validation"),
    ],
)
def test_the_split_of_a_key_never_changes(clues, split):
    assert tfds_builder.split_of(clues) == split


def test_the_shares_of_the_splits():
    splits = Counter(tfds_builder.split_of(text) for text in map(str, range(16_000)))
    for split, share in (("train", 13_000), ("validation", 1_000), ("test", 2_000)):
        assert abs(splits[split] - share) < 200


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10),
    st.integers(0, 4),
    st.booleans(),
    st.integers(0, 2**40),
    st.tuples(st.integers(0, 80), st.integers(0, 40), st.integers(0, 40)),
)
def test_4x4_puzzles_follow_the_settings(blanks_min, width, unique, seed, numbers):
    config = counts(
        *numbers,
        blanks_min=blanks_min,
        blanks_max=min(blanks_min + width, 12),
        unique=unique,
        data_seed=seed,
    )
    _check_puzzles(config)


@pytest.mark.parametrize(("unique", "blanks"), [(False, (30, 33)), (True, (38, 39))])
def test_9x9_puzzles_follow_the_settings(unique, blanks):
    config = counts(
        20, 5, 9, size=9, blanks_min=blanks[0], blanks_max=blanks[1], unique=unique, data_seed=3
    )
    _check_puzzles(config)


def _check_puzzles(config):
    drawn = SudokuPuzzles.draw(config)
    strata = config.blanks_max - config.blanks_min + 1
    for split in SPLITS:
        puzzles = drawn[split]
        assert len(puzzles) == getattr(config, f"{split}_examples")
        if not puzzles:
            continue
        clues, solutions = (sudoku_grid.from_text(texts) for texts in zip(*puzzles))
        blanks = (clues == 0).sum(axis=1).tolist()
        assert blanks == [config.blanks_min + i % strata for i in range(len(puzzles))]
        assert sudoku_grid.is_valid_grid(solutions).all()
        assert ((clues == 0) | (clues == solutions)).all()
        if config.unique:
            assert (sudoku_grid.count_completions(clues, 2) == 1).all()
        if split != "train" and config.blanks_min > 0:
            assert len({text for text, _ in puzzles}) == len(puzzles)
    seen = [{clues for clues, _ in drawn[split]} for split in SPLITS]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_splits_are_disjoint_across_seeds_and_counts():
    train = {
        c for seed in range(4) for c, _ in SudokuPuzzles.draw(counts(500, data_seed=seed))["train"]
    }
    drawn = SudokuPuzzles.draw(counts(0, 300, 900, data_seed=99))
    assert not train & {clues for split in drawn.values() for clues, _ in split}


def test_draw_is_deterministic_and_depends_on_the_seed():
    assert SudokuPuzzles.draw(SMALL) == SudokuPuzzles.draw(SMALL)
    other = SudokuPuzzles.draw(dataclasses.replace(SMALL, data_seed=1))
    assert other["test"] != SudokuPuzzles.draw(SMALL)["test"]


def test_a_growing_split_keeps_its_examples():
    small, large = SudokuPuzzles.draw(SMALL), SudokuPuzzles.draw(counts(3000, 12, 30))
    for split in SPLITS:
        n = len(small[split])
        assert large[split][:n] == small[split]


def test_a_stratum_that_runs_out_repeats_its_puzzles():
    # There are 64 puzzles with one clue, and each belongs to one split.
    drawn = SudokuPuzzles.draw(counts(0, 0, 20, blanks_min=15, blanks_max=15))["test"]
    available = sum(
        tfds_builder.split_of("0" * cell + digit + "0" * (15 - cell)) == "test"
        for cell in range(16)
        for digit in "1234"
    )
    assert 0 < available < 20
    assert len({clues for clues, _ in drawn}) == available
    assert drawn[available:] == drawn[: 20 - available]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 6}, "config.task.sudoku.size=6 is unknown; use one of: 4, 9"),
        ({"blanks_min": 9, "blanks_max": 8}, "sudoku.blanks_min=9 is above .*blanks_max=8"),
        ({"blanks_max": 17}, r"config.task.sudoku.blanks_max=17 must lie in 0\.\.16"),
        ({"blanks_min": -1}, r"config.task.sudoku.blanks_min=-1 must lie in 0\.\.16"),
        ({"unique": True, "blanks_max": 13}, "config.task.sudoku.blanks_max=13: .* most 12"),
        ({"train_examples": -1}, "config.task.sudoku.train_examples=-1 must not be negative"),
        ({"test_examples": -2}, "config.task.sudoku.test_examples=-2 must not be negative"),
        ({"validation_examples": -3}, "sudoku.validation_examples=-3 must not be negative"),
        ({"data_seed": -1}, "config.task.sudoku.data_seed=-1 must not be negative"),
    ],
)
def test_settings_that_no_puzzle_meets_are_refused(tmp_path, change, message):
    config = dataclasses.replace(SMALL, **change)
    for attempt in (
        lambda: SudokuPuzzles.check(config),
        lambda: SudokuPuzzles.draw(config),
        lambda: SudokuPuzzles.load(config, tmp_path, "train"),
    ):
        with pytest.raises(UserError, match=message):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_unique_puzzles_that_are_too_rare_are_an_error(monkeypatch):
    monkeypatch.setattr(sudoku, "_ROUND_CUT", 4)
    monkeypatch.setattr(tfds_builder, "_ENOUGH_TRIES", 8)
    config = counts(1, size=9, blanks_min=64, blanks_max=64, unique=True)
    with pytest.raises(UserError, match=r"blanks_max=64: only 0 of 8 tries .* Lower blanks_max"):
        SudokuPuzzles.draw(config)


def test_a_split_without_any_puzzle_is_an_error(tmp_path):
    # The one puzzle without clues is a training puzzle.
    config = counts(1, 0, 1, blanks_min=16, blanks_max=16)
    with pytest.raises(UserError, match="16 blanks are all in other splits than test"):
        SudokuPuzzles.load(config, tmp_path, "test")


def test_the_data_set_is_written_once_and_read_in_order(tmp_path, monkeypatch, capfd):
    drawn = SudokuPuzzles.draw(SMALL)
    assert SudokuPuzzles.load(SMALL, tmp_path, "test") == drawn["test"]
    monkeypatch.setattr(SudokuPuzzles, "draw", None)  # fails if it is written again
    for split in SPLITS:
        assert SudokuPuzzles.load(SMALL, tmp_path, split) == drawn[split]
    (directory,) = (p.name for p in tmp_path.iterdir() if p.is_dir())
    assert directory.startswith("sudoku-")
    assert capfd.readouterr() == ("", "")


def test_every_setting_has_its_own_directory(tmp_path):
    for i, change in enumerate(({}, {"data_seed": 1}, {"test_examples": 26}, {"unique": True})):
        config = dataclasses.replace(SMALL, blanks_max=9, **change)
        SudokuPuzzles.prepare(config, tmp_path)
        assert sum(p.is_dir() for p in tmp_path.iterdir()) == i + 1


def test_splits_may_be_empty(tmp_path):
    assert SudokuPuzzles.load(counts(), tmp_path, "train") == []
    assert list(tmp_path.iterdir()) == []
    config = counts(5)
    assert SudokuPuzzles.load(config, tmp_path, "test") == []
    assert len(SudokuPuzzles.load(config, tmp_path, "train")) == 5


def test_no_connection_is_attempted(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(SudokuPuzzles.load(SMALL, tmp_path, "train")) == 60


def test_the_data_set_of_a_killed_writer_is_written_again(tmp_path):
    code = """
import pathlib, sys, time
from diffpo_jax.config import SudokuConfig
from diffpo_jax.tasks.datasets.sudoku import SudokuPuzzles
def stuck(self, puzzles):
    yield 0, {"clues": "0", "solution": "1"}
    print("writing", file=sys.__stdout__, flush=True)
    time.sleep(600)
SudokuPuzzles._generate_examples = stuck
SudokuPuzzles.prepare(SudokuConfig(**eval(sys.argv[2])), pathlib.Path(sys.argv[1]))
"""
    with run(code, tmp_path, dataclasses.asdict(SMALL)) as writer:
        assert writer.stdout.readline() == "writing\n", writer.stderr.read()
        writer.send_signal(signal.SIGKILL)
    left = list(tmp_path.glob("sudoku-*/*/incomplete*"))
    assert len(left) == 1
    assert SudokuPuzzles.load(SMALL, tmp_path, "train") == SudokuPuzzles.draw(SMALL)["train"]
    assert not left[0].exists()


def test_processes_that_start_together_write_once(tmp_path):
    code = """
import pathlib, sys
from diffpo_jax.config import SudokuConfig
from diffpo_jax.tasks.datasets.sudoku import SudokuPuzzles
draw = SudokuPuzzles.draw
def announce(config):
    print("drawn", file=sys.__stdout__)
    return draw(config)
SudokuPuzzles.draw = staticmethod(announce)
config = SudokuConfig(**eval(sys.argv[2]))
print(len(SudokuPuzzles.load(config, pathlib.Path(sys.argv[1]), "train")))
"""
    writers = [run(code, tmp_path, dataclasses.asdict(SMALL)) for _ in range(2)]
    outputs = [writer.communicate(timeout=60) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], outputs
    assert sorted(text for text, _ in outputs) == ["60\n", "drawn\n60\n"]


def test_a_data_directory_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"config.task.data_dir: examples cannot be written to"):
        SudokuPuzzles.load(SMALL, tmp_path / "file" / "data", "train")


def test_a_full_disk_is_an_error_of_one_line(tmp_path, monkeypatch):
    """array_record's writer raises no OSError."""
    text = 'Failed to finalize writing of split "train": write() failed: No space left on device; w'

    def prepare(self, **options):
        raise RuntimeError(text)

    monkeypatch.setattr(SudokuPuzzles, "download_and_prepare", prepare)
    with pytest.raises(UserError, match=r"be written to .* \(No space left on device\)\.$"):
        SudokuPuzzles.load(SMALL, tmp_path, "train")
    text = "another"
    with pytest.raises(RuntimeError, match="another"):
        SudokuPuzzles.load(SMALL, tmp_path, "train")


@pytest.mark.parametrize("name", ["*train*", "dataset_info.json"])
def test_a_damaged_data_set_is_an_error(tmp_path, name):
    builder = SudokuPuzzles.prepare(SMALL, tmp_path)
    (record,) = pathlib.Path(builder.data_dir).glob(name)
    record.write_bytes(record.read_bytes()[: 1000 if "train" in name else 100])
    with pytest.raises(UserError, match=r"cannot be read .* Delete that directory"):
        SudokuPuzzles.load(SMALL, tmp_path, "train")
