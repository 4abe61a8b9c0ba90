"""Generated Countdown instances as a TensorFlow Datasets builder; see `generated`.

1. Numbers are drawn uniformly, and an expression of them at random.  Where its value is a whole
   number in the range of targets, that is the target, and the expression a solution.
2. A hash of the sorted numbers and the target decides the split: no instance is in two splits,
   in whatever order its numbers stand.
3. Each split takes from the stream of each number of numbers as many instances as it needs.

So a solution is drawn at random among an instance's solutions, and an instance that comes up
again most often comes with another.  Targets are not uniform: those that more expressions reach,
the smaller ones mostly, are more frequent, and easier.  Validation and test are therefore
independent draws like training, in which an instance may come again: of different ones alone they
would be the harder, the more there are.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from diffpo_jax.config import CountdownConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import expressions, tfds_builder

Instance = tuple[str, str, str]  # numbers, separated by commas; target; solution

MOST_NUMBERS = 6

_FIELD = "config.task.countdown"
_LARGEST = 1_000_000
_ROUND = 1024  # expressions drawn at a time


class CountdownInstances(tfds_builder.GeneratedRows, skip_registration=True):
    """Instances of one `CountdownConfig`: text features "numbers", "target", "solution"."""

    VERSION = tfds.core.Version("2.0.0")
    NAME = "countdown"
    TITLE = "Countdown instances"
    COLUMNS = ("numbers", "target", "solution")

    def draw(self) -> dict[str, list[Instance]]:
        return draw(self.settings)


def check_settings(config: CountdownConfig) -> None:
    """Raises `UserError`, naming the field, on settings that no instance can meet."""
    for what, least, most in (
        ("numbers", 2, MOST_NUMBERS),
        ("number", 1, _LARGEST),
        ("target", 0, _LARGEST),
    ):
        low, high = (getattr(config, f"{what}_{end}") for end in ("min", "max"))
        for end, value in (("min", low), ("max", high)):
            if not least <= value <= most:
                raise UserError(f"{_FIELD}.{what}_{end}={value} must lie in {least}..{most}.")
        if low > high:
            raise UserError(f"{_FIELD}.{what}_min={low} is above {_FIELD}.{what}_max={high}.")
    tfds_builder.check_counts(config, _FIELD)


def key(numbers: Sequence[int], target: int) -> str:
    """The name of an instance, whatever the order of its numbers."""
    return f"{','.join(map(str, sorted(numbers)))}={target}"


def draw(config: CountdownConfig) -> dict[str, list[Instance]]:
    """Draws the instances of every split (see the module's head and `tfds_builder.fill`).

    30,000 instances of three numbers take a few seconds.

    Raises:
      UserError: settings that `check_settings` refuses, targets that are hardly ever reached, or
        a number of numbers of which a split has no instance at all.
    """
    check_settings(config)
    return tfds_builder.deal(
        config,
        range(config.numbers_min, config.numbers_max + 1),
        lambda size, wanted: _draw_stratum(config, size, wanted),
    )


def load(config: CountdownConfig, data_dir: pathlib.Path, split: str) -> list[Instance]:
    """One split of the instances, as `tfds_builder.load` reads it.  Raises like it and `draw`."""
    check_settings(config)
    return tfds_builder.load(CountdownInstances, config, data_dir, split)


def _draw_stratum(
    config: CountdownConfig, size: int, wanted: dict[str, int]
) -> dict[str, list[Instance]]:
    """The first instances of so many numbers, `wanted[split]` for each split."""
    ranges = (config.number_min, config.number_max, config.target_min, config.target_max)

    def draw_round(number: int) -> tuple[list[Instance], int]:
        rng = np.random.default_rng([config.data_seed, *ranges, size, number])
        numbers = rng.integers(config.number_min, config.number_max + 1, (_ROUND, size)).tolist()
        picks = rng.random((_ROUND, size - 1, 3)).tolist()
        drawn = []
        for row, pick in zip(numbers, picks):
            found = expressions.draw(row, pick)
            if found is None or found.value.denominator != 1:
                continue
            if config.target_min <= found.value <= config.target_max:
                drawn.append((",".join(map(str, row)), str(found.value), found.text))
        return drawn, _ROUND

    def rare(candidates: int, tries: int) -> str:
        return (
            f"{_FIELD}.target_min..target_max={config.target_min}..{config.target_max}: only "
            f"{candidates} of {tries} random expressions of {size} numbers reached it. Widen the "
            "range, or lower number_max."
        )

    def absent(split: str) -> str:
        return (
            f"{_FIELD}.number_min..number_max={config.number_min}..{config.number_max}: the few "
            f"instances of {size} numbers are all in other splits than {split}."
        )

    return tfds_builder.fill(
        wanted,
        draw_round,
        lambda row: key([int(n) for n in row[0].split(",")], int(row[1])),
        prompt=None,
        rare=rare,
        absent=absent,
    )
