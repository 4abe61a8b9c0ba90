"""Arithmetic on frontiers: accuracy against denoiser calls over a grid of thresholds.

A frontier is a list of points `{"gamma", "accuracy", "nfe", "tokens_per_call"}`: the threshold
in nats (another rule's dial has its own name), the share of prompts solved, and the mean denoiser
calls a sequence.  Between two neighbouring points in `nfe` accuracy is taken to be linear.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

Frontier = Sequence[Mapping[str, Any]]


def interpolate(frontier: Frontier, nfe: float) -> tuple[float, bool]:
    """Accuracy of a frontier at `nfe` calls, linear between its points.

    Of points with equal calls the most accurate counts.

    Returns:
      The accuracy, and whether `nfe` lies outside the frontier: then it is the accuracy of
      the nearest end, since nothing was measured there.

    Raises:
      ValueError: the frontier is empty.
    """
    knots = _knots(frontier)
    if nfe < knots[0][0]:
        return knots[0][1], True
    if nfe > knots[-1][0]:
        return knots[-1][1], True
    for (x, y), (next_x, next_y) in itertools.pairwise(knots):
        if x < nfe < next_x:
            share = (nfe - x) / (next_x - x)
            return y + share * (next_y - y), False
    return dict(knots)[nfe], False


def area_under(frontier: Frontier, lo: float, hi: float) -> float:
    """Area under accuracy (`interpolate`) from `lo` to `hi` calls, in accuracy times calls.

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
    """Mean accuracy over calls from `lo` to `hi`, `hi` above `lo`: `area_under` by its width."""
    return area_under(frontier, lo, hi) / (hi - lo)


def shared_range(first: Frontier, second: Frontier) -> tuple[float, float] | None:
    """The range of calls that both frontiers cover; None if it is empty or a single point.

    Raises:
      ValueError: a frontier is empty.
    """
    a, b = _knots(first), _knots(second)
    lo, hi = max(a[0][0], b[0][0]), min(a[-1][0], b[-1][0])
    return (lo, hi) if lo < hi else None


def aup(frontier: Frontier, best: float, alpha: float = 3.0, drop: float = 0.05) -> float:
    """Accuracy under parallelism (arXiv 2601.07568), in percent times tokens a call.

    With points by rising tokens per call rho and accuracies y, those more than `drop` below the
    first left out: rho_1 y_1 and the trapezoids of y W(y) after it, where
    W(y) = min(exp(-alpha (1 - y / best)), 1).

    Args:
      best: the highest accuracy of all that is compared, a share.

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
    """(calls, accuracy) by rising calls, each number of calls once, with its best accuracy."""
    if not frontier:
        raise ValueError("a frontier needs at least one point.")
    best: dict[float, float] = {}
    for point in frontier:
        x, y = float(point["nfe"]), float(point["accuracy"])
        best[x] = max(y, best.get(x, y))
    return sorted(best.items())
