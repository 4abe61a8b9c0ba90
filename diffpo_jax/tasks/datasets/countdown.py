"""Generated Countdown instances, as a TensorFlow Datasets builder.

1. Numbers are drawn uniformly, and an expression of them at random.  If its value is a whole number
   in the range of targets, that is the target, and the expression is a solution.
2. A hash of the sorted numbers and the target decides the split, so no instance is in two splits,
   in whatever order its numbers are written.
3. Each split takes as many instances of each number of numbers as it needs, in order.

So the solution is a random one of the instance's solutions, and an instance that comes up again
most often has another.  Targets are not uniform: those that more expressions reach, mostly the
smaller ones, are more frequent, and easier.  Therefore validation and test are independent draws
like training, and may repeat an instance.  If all were different, they would be harder the more
there are.
"""

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
    """Instances of one `CountdownConfig`: text features "numbers", "target" and "solution".

    Drawing 30,000 instances of three numbers takes a few seconds.
    """

    VERSION = tfds.core.Version("2.0.0")
    NAME = "countdown"
    TITLE = "Countdown instances"
    COLUMNS = ("numbers", "target", "solution")
    RARE = (
        "config.task.countdown.target_min..target_max={s.target_min}..{s.target_max}: only "
        "{candidates} of {tries} random expressions of {stratum} numbers reached it. Widen the "
        "range, or lower number_max."
    )
    ABSENT = (
        "config.task.countdown.number_min..number_max={s.number_min}..{s.number_max}: the few "
        "instances of {stratum} numbers are all in other splits than {split}."
    )

    @staticmethod
    def check(settings: CountdownConfig) -> None:
        for what, least, most in (
            ("numbers", 2, MOST_NUMBERS),
            ("number", 1, _LARGEST),
            ("target", 0, _LARGEST),
        ):
            low, high = (getattr(settings, f"{what}_{end}") for end in ("min", "max"))
            for end, value in (("min", low), ("max", high)):
                if not least <= value <= most:
                    raise UserError(f"{_FIELD}.{what}_{end}={value} must lie in {least}..{most}.")
            if low > high:
                raise UserError(f"{_FIELD}.{what}_min={low} is above {_FIELD}.{what}_max={high}.")
        tfds_builder.check_counts(settings, _FIELD)

    @staticmethod
    def key(row: Sequence[str]) -> str:
        """The numbers in ascending order, and the target."""
        return f"{','.join(sorted(row[0].split(','), key=int))}={row[1]}"

    @staticmethod
    def strata(settings: CountdownConfig) -> range:
        return range(settings.numbers_min, settings.numbers_max + 1)

    @staticmethod
    def draw_round(
        settings: CountdownConfig, stratum: int, number: int
    ) -> tuple[list[Instance], int]:
        low, high = settings.number_min, settings.number_max
        least, most = settings.target_min, settings.target_max
        rng = np.random.default_rng([settings.data_seed, low, high, least, most, stratum, number])
        numbers = rng.integers(low, high + 1, (_ROUND, stratum)).tolist()
        picks = rng.random((_ROUND, stratum - 1, 3)).tolist()
        drawn = []
        for row, pick in zip(numbers, picks):
            found = expressions.draw(row, pick)
            if found and found.value.denominator == 1 and least <= found.value <= most:
                drawn.append((",".join(map(str, row)), str(found.value), found.text))
        return drawn, _ROUND
