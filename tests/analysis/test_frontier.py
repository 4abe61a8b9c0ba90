import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.analysis.frontier import (
    area_under,
    aup,
    best_within,
    calls_for,
    interpolate,
    shared_range,
)


def frontier(*points):
    """Points (nfe, accuracy)."""
    return [
        {"gamma": 0.1, "accuracy": accuracy, "nfe": nfe, "tokens_per_call": 16 / nfe}
        for nfe, accuracy in points
    ]


# In the order of thresholds, so that calls fall.
LINE = frontier((8.0, 0.9), (4.0, 0.7), (2.0, 0.1))


@pytest.mark.parametrize(
    "nfe, accuracy", [(2.0, 0.1), (3.0, 0.4), (4.0, 0.7), (5.0, 0.75), (7.0, 0.85), (8.0, 0.9)]
)
def test_interpolate_is_linear_between_neighbours(nfe, accuracy):
    found, extrapolated = interpolate(LINE, nfe)
    assert found == pytest.approx(accuracy, abs=1e-12)
    assert extrapolated is False


@pytest.mark.parametrize("nfe, accuracy", [(1.9, 0.1), (8.1, 0.9)])
def test_outside_the_range_the_nearest_end_counts_and_is_flagged(nfe, accuracy):
    assert interpolate(LINE, nfe) == (accuracy, True)


def test_the_best_of_points_with_equal_calls_counts():
    points = frontier((4.0, 0.2), (4.0, 0.6), (4.0, 0.3), (6.0, 0.8))
    assert interpolate(points, 4.0) == (0.6, False)
    assert interpolate(points, 5.0)[0] == pytest.approx(0.7)
    assert interpolate(points, 3.0) == (0.6, True)


def test_a_single_point_covers_only_its_own_calls():
    assert interpolate(frontier((4.0, 0.5)), 4.0) == (0.5, False)
    assert interpolate(frontier((4.0, 0.5)), 5.0) == (0.5, True)


def test_an_empty_frontier_is_refused():
    with pytest.raises(ValueError, match="at least one point"):
        interpolate([], 4.0)


@pytest.mark.parametrize("nfe, place", [(9.0, 0), (8.0, 0), (7.9, 1), (2.0, 2), (1.0, 2)])
def test_the_best_point_within_some_calls(nfe, place):
    assert best_within(LINE, nfe) == place


@given(
    st.dictionaries(st.floats(1, 100), st.floats(0, 1), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_interpolate_returns_the_accuracy_of_the_frontiers_own_points(points, random):
    shuffled = list(points.items())
    random.shuffle(shuffled)
    for nfe, accuracy in points.items():
        assert interpolate(frontier(*shuffled), nfe) == (accuracy, False)


@given(
    st.dictionaries(st.floats(1, 100), st.floats(0, 1), min_size=1, max_size=8), st.floats(1, 100)
)
def test_interpolate_stays_between_worst_and_best(points, nfe):
    found, _ = interpolate(frontier(*points.items()), nfe)
    assert min(points.values()) - 1e-12 <= found <= max(points.values()) + 1e-12


@pytest.mark.parametrize(
    "lo, hi, area",
    [
        (2.0, 8.0, 0.8 + 3.2),  # 2 wide at a mean of 0.4, then 4 wide at a mean of 0.8
        (3.0, 5.0, 0.55 + 0.725),
        (5.0, 5.0, 0.0),
        (0.0, 2.0, 0.2),  # the end value, outside
        (8.0, 10.0, 1.8),
    ],
)
def test_area_under_adds_trapezoids(lo, hi, area):
    assert area_under(LINE, lo, hi) == pytest.approx(area, abs=1e-12)


def test_area_under_a_reversed_range_is_refused():
    with pytest.raises(ValueError, match="reversed"):
        area_under(LINE, 5.0, 4.0)


@given(st.floats(0, 12), st.floats(0, 12), st.floats(0, 12))
def test_areas_of_parts_add_up_to_the_whole(a, b, c):
    lo, middle, hi = sorted((a, b, c))
    parts = area_under(LINE, lo, middle) + area_under(LINE, middle, hi)
    assert parts == pytest.approx(area_under(LINE, lo, hi), abs=1e-9)


def test_shared_range_is_where_all_frontiers_overlap():
    assert shared_range(LINE, frontier((3.0, 0.1), (9.0, 0.2))) == (3.0, 8.0)
    assert shared_range(LINE, frontier((8.0, 0.1), (9.0, 0.2))) is None
    assert shared_range(LINE, frontier((9.0, 0.1), (10.0, 0.2))) is None
    assert shared_range(LINE, frontier((3.0, 0.1), (9.0, 0.2)), frontier((1, 0), (4, 1))) == (3, 4)


def test_accuracy_under_parallelism_matches_numbers_worked_by_hand():
    """2, 4, 8 tokens per call at accuracies 0.8, 0.78, 0.7: the last is over 5 points lower."""
    points = frontier((8.0, 0.8), (4.0, 0.78), (2.0, 0.7))
    alone = 2 * 0.8 + 2 * (0.8 + 0.78 * math.exp(-3 * (1 - 0.78 / 0.8))) / 2
    assert aup(points, 0.8) == pytest.approx(100 * alone)
    assert aup(points[::-1], 0.8) == pytest.approx(100 * alone)
    weighed = [y * math.exp(-3 * (1 - y / 0.9)) for y in (0.8, 0.78)]
    assert aup(points, 0.9) == pytest.approx(100 * (2 * 0.8 + sum(weighed)))
    assert aup(points, 0.8, drop=0.2) > aup(points, 0.8)
    assert aup(frontier((4.0, 0.0)), 0.0) == 0.0
    with pytest.raises(ValueError, match="at least one point"):
        aup([], 1.0)


def test_calls_for_is_the_fewest_calls_that_reach_an_accuracy():
    points = frontier((6, 0.8), (2, 0.5), (8, 1.0), (4, 0.9))
    assert calls_for(points, 0.4) == 2
    assert calls_for(points, 0.7) == pytest.approx(3)
    assert calls_for(points, 0.9) == pytest.approx(4)
    assert calls_for(points, 0.95) == pytest.approx(7.5)
    assert calls_for(points, 1.01) is None
