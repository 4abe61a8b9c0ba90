"""Arithmetic on frontiers: accuracy against denoiser calls over a grid of thresholds.

A frontier is a list of points `{"gamma", "accuracy", "nfe", "tokens_per_call"}`: the threshold in
nats (under another commit rule, its dial under the dial's own name), the share of prompts solved,
and the mean number of denoiser calls per sequence.  Accuracy is interpolated linearly between
points that are neighbours in `nfe`.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

Frontier = Sequence[Mapping[str, Any]]


def interpolate(frontier: Frontier, nfe: float) -> tuple[float, bool]:
    """Returns the accuracy at `nfe` calls, and whether `nfe` lies outside the frontier.

    It is linear between points; of points with equal calls the most accurate counts. Outside,
    where nothing was measured, it is the accuracy of the nearest end.

    Raises:
      ValueError: the frontier is empty.
    """
    knots = _knots(frontier)
    first, last = knots[0], knots[-1]
    if not first[0] <= nfe <= last[0]:
        return (first if nfe < first[0] else last)[1], True
    for (x, y), (next_x, next_y) in itertools.pairwise(knots):
        if x <= nfe < next_x:
            return y + (nfe - x) / (next_x - x) * (next_y - y), False
    return last[1], False


def calls_for(frontier: Frontier, accuracy: float) -> float | None:
    """Returns the fewest calls at which a frontier reaches an accuracy; None if nowhere.

    Raises:
      ValueError: the frontier is empty.
    """
    knots = _knots(frontier)
    if knots[0][1] >= accuracy:
        return knots[0][0]
    for (x, y), (next_x, next_y) in itertools.pairwise(knots):
        if y < accuracy <= next_y:
            return x + (accuracy - y) / (next_y - y) * (next_x - x)
    return None


def best_within(frontier: Frontier, nfe: float) -> int:
    """Returns the place of the most accurate point of at most `nfe` calls.

    If all take more, it is the point with the fewest.

    Raises:
      ValueError: the frontier is empty.
    """
    if not frontier:
        raise ValueError("a frontier needs at least one point.")
    within = [i for i, point in enumerate(frontier) if point["nfe"] <= nfe]
    if within:
        return max(within, key=lambda i: frontier[i]["accuracy"])
    return min(range(len(frontier)), key=lambda i: frontier[i]["nfe"])


def area_under(frontier: Frontier, lo: float, hi: float) -> float:
    """Returns the area under `interpolate` from `lo` to `hi` calls, in accuracy times calls.

    Raises:
      ValueError: the frontier is empty, or `lo` is above `hi`.
    """
    if lo > hi:
        raise ValueError(f"area_under from {lo} to {hi} calls: the range is reversed.")
    inner = [x for x, _ in _knots(frontier) if lo < x < hi]
    xs = [lo, *inner, hi]
    ys = [interpolate(frontier, x)[0] for x in xs]
    return sum((xs[i + 1] - xs[i]) * (ys[i] + ys[i + 1]) / 2 for i in range(len(xs) - 1))


def mean_over(frontier: Frontier, lo: float, hi: float) -> float:
    """Returns the mean accuracy from `lo` to `hi` calls: `area_under` divided by `hi - lo` > 0."""
    return area_under(frontier, lo, hi) / (hi - lo)


def shared_range(*frontiers: Frontier) -> tuple[float, float] | None:
    """Returns the range of calls that all frontiers cover; None if it is empty or a single point.

    Raises:
      ValueError: a frontier is empty.
    """
    knots = [_knots(frontier) for frontier in frontiers]
    lo, hi = max(k[0][0] for k in knots), min(k[-1][0] for k in knots)
    return (lo, hi) if lo < hi else None


def aup(frontier: Frontier, best: float, alpha: float = 3.0, drop: float = 0.05) -> float:
    """Returns the accuracy under parallelism (arXiv 2601.07568), in percent times tokens per call.

    Points are sorted by tokens per call rho; those with an accuracy y more than `drop` below the
    first one's are left out. The result is rho_1 y_1 plus the trapezoids under y W(y), where
    W(y) = min(exp(-alpha (1 - y / best)), 1).

    Args:
      best: the highest accuracy among all frontiers that are compared, a share.

    Raises:
      ValueError: the frontier is empty.
    """
    if not frontier:
        raise ValueError("a frontier needs at least one point.")
    points = sorted((float(p["tokens_per_call"]), float(p["accuracy"])) for p in frontier)
    points = [(x, y) for x, y in points if y >= points[0][1] - drop]

    def weighted(y: float) -> float:
        return y * min(math.exp(-alpha * (1 - y / best)), 1.0) if best else 0.0

    area = points[0][0] * points[0][1]
    for (x, y), (next_x, next_y) in itertools.pairwise(points):
        area += (next_x - x) * (weighted(y) + weighted(next_y)) / 2
    return 100 * area


def _knots(frontier: Frontier) -> list[tuple[float, float]]:
    """Returns (calls, best accuracy at these calls), sorted by calls."""
    if not frontier:
        raise ValueError("a frontier needs at least one point.")
    best: dict[float, float] = {}
    for point in frontier:
        x, y = float(point["nfe"]), float(point["accuracy"])
        best[x] = max(y, best.get(x, y))
    return sorted(best.items())
