"""Whether the training of a run shows signs of trouble, by the metrics that it logged.

All limits are our choice. What is compared are means over the first and the last tenth of the
steps, as single steps are noisy.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffpo_jax.analysis.runs import Run

_PART = 10  # the first and the last tenth of the steps are looked at
_FALL = 0.15  # of its best: a reward that ended further below it has fallen,
_ERRORS = 3  # unless the difference is within as many standard errors
_VALIDATION = 0.05  # a share of prompts: as much below its best is a loss
# Of its beginning: an entropy that ended below it has vanished. A model that solves most prompts is
# rightly certain, so that the limit is low.
_CERTAIN = 0.02
_EQUAL = 0.9  # of the groups
_UNEVEN = 0.1  # of the tokens: a smaller effective sample size is one of few tokens
_UNREAD, _CUT = 0.2, 0.2  # of the rollouts


class Sign(NamedTuple):
    """Something that was looked at."""

    name: str
    end: float  # its value at the end
    other: float  # what it is compared with: its best, its beginning, or the limit
    is_trouble: bool


def signs(run: Run) -> list[Sign]:
    """Returns what could be looked at, given what the run logged; nothing before the first step."""
    rows = run.rl
    found = [
        _reward(rows),
        _validation(rows),
        _entropy(rows),
        _against_limit(rows, "groups/equal", _EQUAL),
        _against_limit(rows, "parse_failures", _UNREAD),
        _against_limit(rows, "forced", _CUT),
    ]
    if run.config["rl.objective.weights"] != "none":
        found.append(_against_limit(rows, "weights/ess", _UNEVEN, below=True))
    return [sign for sign in found if sign is not None]


def warnings(run: Run) -> dict[str, int]:
    """Returns the conditions of the guard against collapse that were met, with their steps."""
    return {
        name.removeprefix("guard/"): row["step"]
        for row in reversed(run.rl)
        for name in row
        if name.startswith("guard/")
    }


def _parts(rows: Sequence[Mapping[str, Any]], name: str) -> list[list[float]]:
    """The values of a metric, in order, in tenths of the steps; all are whole but for a rest."""
    values = [row[name] for row in rows if name in row]
    size = max(1, len(values) // _PART)
    ends = range(len(values), size - 1, -size)  # the rest is at the beginning, and left out
    return [values[end - size : end] for end in reversed(ends)]


def _reward(rows: Sequence[Mapping[str, Any]]) -> Sign | None:
    """Compares the last tenth with the best one."""
    parts = _parts(rows, "reward")
    if len(parts) < 2:
        return None
    best = max(parts, key=statistics.fmean)
    end, top = statistics.fmean(parts[-1]), statistics.fmean(best)
    error = math.sqrt(sum(_variance(part) / len(part) for part in (best, parts[-1])))
    return Sign("reward", end, top, top - end > max(_FALL * abs(top), _ERRORS * error))


def _variance(values: Sequence[float]) -> float:
    return statistics.variance(values) if len(values) > 1 else 0.0


def _validation(rows: Sequence[Mapping[str, Any]]) -> Sign | None:
    shares = [row["eval/accuracy"] for row in rows if "eval/accuracy" in row]
    if len(shares) < 2:
        return None
    return Sign("validation", shares[-1], max(shares), max(shares) - shares[-1] > _VALIDATION)


def _entropy(rows: Sequence[Mapping[str, Any]]) -> Sign | None:
    means = [statistics.fmean(part) for part in _parts(rows, "entropy")]
    return Sign("entropy", means[-1], means[0], means[-1] < _CERTAIN * means[0]) if means else None


def _against_limit(
    rows: Sequence[Mapping[str, Any]], name: str, limit: float, below: bool = False
) -> Sign | None:
    parts = _parts(rows, name)
    if not parts:
        return None
    end = statistics.fmean(parts[-1])
    return Sign(name, end, limit, end < limit if below else end > limit)
