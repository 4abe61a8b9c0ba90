import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffpo_jax.config import CountdownConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.answers import arithmetic
from diffpo_jax.tasks.datasets.countdown import CountdownInstances
from diffpo_jax.tasks.task import SPLITS

SMALL = CountdownConfig(train_examples=60, validation_examples=11, test_examples=25)


def keys(rows):
    return {CountdownInstances.key(row) for row in rows}


@settings(max_examples=12, deadline=None)
@given(
    st.integers(2, 5),
    st.integers(0, 1),
    st.tuples(st.integers(1, 5), st.integers(4, 20)),
    st.tuples(st.integers(0, 10), st.integers(20, 99)),
    st.integers(0, 2**40),
)
def test_instances_follow_the_settings(numbers_min, width, numbers, targets, seed):
    config = dataclasses.replace(
        SMALL,
        numbers_min=numbers_min,
        numbers_max=numbers_min + width,
        number_min=numbers[0],
        number_max=sum(numbers),
        target_min=targets[0],
        target_max=sum(targets),
        data_seed=seed,
    )
    try:
        drawn = CountdownInstances.draw(config)
    except UserError as error:  # two numbers from a small range have few instances
        assert "the few instances of 2 numbers" in str(error)
        assume(False)
    for split in SPLITS:
        assert len(drawn[split]) == getattr(config, f"{split}_examples")
        for i, (given_numbers, target, solution) in enumerate(drawn[split]):
            row = [int(n) for n in given_numbers.split(",")]
            assert len(row) == numbers_min + i % (width + 1)
            assert all(config.number_min <= n <= config.number_max for n in row)
            assert config.target_min <= int(target) <= config.target_max
            value, used = arithmetic.evaluate(solution)
            assert (value, sorted(used)) == (int(target), sorted(row))
            question = f"{given_numbers}={target}"
            assert len(question) <= config.characters[0]
            assert len(solution) < config.characters[1]  # an end of text follows
    seen = [keys(drawn[split]) for split in SPLITS]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_splits_are_disjoint_across_seeds_and_orders():
    assert CountdownInstances.key(("3,15,2", "9", "")) == "2,3,15=9"
    train = [dataclasses.replace(SMALL, train_examples=500, data_seed=s) for s in range(2)]
    drawn = set().union(*(keys(CountdownInstances.draw(config)["train"]) for config in train))
    other = CountdownInstances.draw(dataclasses.replace(SMALL, test_examples=300, data_seed=99))
    assert not drawn & keys(other["test"]) and not drawn & keys(other["validation"])


def test_no_part_of_a_split_is_harder_than_another():
    """Small targets are more frequent, so a split without repeats would run out of them."""
    config = CountdownConfig(train_examples=3000, validation_examples=300, test_examples=900)
    drawn = CountdownInstances.draw(config)
    targets = {split: np.array([int(row[1]) for row in drawn[split]]) for split in SPLITS}
    parts = [*np.split(targets["test"], 3), targets["validation"]]
    mean, deviation = targets["train"].mean(), targets["train"].std()
    for part in parts:
        # Few instances are frequent, and the mean of a split depends on which of them it has.
        assert abs(part.mean() - mean) < 4 * deviation / len(part) ** 0.5
    assert len({row[:2] for row in drawn["test"]}) < 900


def test_repeated_instances_have_different_solutions():
    drawn = CountdownInstances.draw(dataclasses.replace(SMALL, train_examples=3000))["train"]
    solutions = {}
    for numbers, target, solution in drawn:
        solutions.setdefault((numbers, target), set()).add(solution)
    several = [found for found in solutions.values() if len(found) > 1]
    assert len(several) > 300


def test_draw_is_deterministic_and_a_growing_split_keeps_its_rows():
    small = CountdownInstances.draw(SMALL)
    large = CountdownInstances.draw(
        dataclasses.replace(SMALL, train_examples=300, test_examples=30)
    )
    for split in SPLITS:
        assert large[split][: len(small[split])] == small[split]
    assert CountdownInstances.draw(dataclasses.replace(SMALL, data_seed=1))["test"] != small["test"]


def test_the_data_set_is_written_once_and_read_in_order(tmp_path, monkeypatch):
    drawn = CountdownInstances.draw(SMALL)
    assert CountdownInstances.load(SMALL, tmp_path, "test") == drawn["test"]
    monkeypatch.setattr(CountdownInstances, "draw", None)  # fails if it is written again
    for split in SPLITS:
        assert CountdownInstances.load(SMALL, tmp_path, split) == drawn[split]
    (directory,) = (p.name for p in tmp_path.iterdir() if p.is_dir())
    assert directory.startswith("countdown-")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numbers_min": 1}, r"countdown\.numbers_min=1 must lie in 2\.\.6"),
        ({"numbers_max": 7}, r"countdown\.numbers_max=7 must lie in 2\.\.6"),
        ({"number_min": 0}, r"countdown\.number_min=0 must lie in 1\.\."),
        (
            {"number_min": 10},
            r"countdown\.number_min=10 is above config\.task\.countdown\.number_m",
        ),
        ({"target_min": 51}, r"countdown\.target_min=51 is above"),
        ({"test_examples": -1}, r"countdown\.test_examples=-1 must not be negative"),
        ({"number_max": 5, "target_min": 900, "target_max": 999}, "only 0 of 1024 random expr"),
        (
            {"number_max": 1, "target_max": 3, "train_examples": 0},
            r"number_min\.\.number_max=1\.\.1: the few instances of 3 numbers are all in other",
        ),
    ],
)
def test_settings_that_no_instance_meets_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        CountdownInstances.draw(dataclasses.replace(SMALL, **changes))
