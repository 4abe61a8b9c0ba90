import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.analysis import bootstrap
from diffpo_jax.analysis.bootstrap import Outcomes, paired_gains, pass_at_k


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([[True]], {}),
        ([[True], [False]], {}),
        ([[True, False]], {1: 0.5, 2: 1.0}),
        ([[False, False, False], [True, True, True]], {1: 0.5, 2: 0.5}),
        ([[True, False, False, False]], {1: 0.25, 2: 0.5, 4: 1.0}),
        ([[True, False, False, False, False], [False] * 4], {1: 0.1, 2: 0.2, 4: 0.4}),
        ([[True, False, True], [False]], {1: 1 / 3}),  # the second problem has only one
    ],
)
def test_pass_at_k_matches_numbers_worked_by_hand(verdicts, expected):
    assert pass_at_k(verdicts) == pytest.approx(expected)


@given(st.lists(st.booleans(), min_size=2, max_size=7))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_completion(verdicts):
    for k, value in pass_at_k([verdicts]).items():
        subsets = list(itertools.combinations(verdicts, k))
        assert value == pytest.approx(sum(map(any, subsets)) / len(subsets))


def outcomes(share, nfe, rows=400, seed=0):
    """A point that solves about `share` of the prompts, in about `nfe` calls each."""
    draw = np.random.default_rng([seed, int(100 * share)])
    return Outcomes(draw.random(rows) < share, draw.poisson(nfe, rows))


BASE = [outcomes(0.9, 16), outcomes(0.7, 6), outcomes(0.4, 3)]


def test_gains_match_numbers_worked_by_hand():
    def point(right, nfe):
        return Outcomes(np.arange(10) < right, np.full(10, nfe))

    base, trained = [point(9, 8), point(4, 2)], [point(10, 8), point(9, 5), point(3, 1)]
    got = paired_gains(base, trained, point(8, 4), resamples=10)
    # The base is linear: 65 % at 5 calls, 56.7 % at 4; at 1 call its nearest point counts.
    assert [g["gain"] for g in got["grid"]] == pytest.approx([0.1, 0.25, -0.1])
    assert got["learned"]["gain"] == pytest.approx(0.8 - (0.4 + 0.5 * 2 / 6))
    # From 2 to 8 calls; trained is 45 % at 2: (3 * (.45 + .9) / 2 + 3 * .95) / 6 - .65.
    assert got["mean"]["gain"] == pytest.approx((3 * 0.675 + 3 * 0.95) / 6 - 0.65)
    for gain in (*got["grid"], got["learned"], got["mean"]):
        assert gain["low"] <= gain["gain"] <= gain["high"]


def test_a_model_has_no_gain_over_itself():
    got = paired_gains(BASE, BASE, None, resamples=50)
    for gain in (*got["grid"], got["mean"]):
        assert gain == pytest.approx({"gain": 0.0, "low": 0.0, "high": 0.0}, abs=1e-12)
    assert got["learned"] is None


def test_intervals_match_the_normal_interval_of_paired_differences():
    # At equal calls the gain is a mean of N differences, whose normal interval is known.
    base = Outcomes(BASE[1].correct, np.full(400, 6))
    better = Outcomes(base.correct | (np.random.default_rng(1).random(400) < 0.3), base.nfe)
    differences = better.correct.astype(float) - base.correct
    (gain,) = paired_gains([base], [better], None)["grid"]
    half = 1.96 * differences.std() / math.sqrt(400)
    assert gain["high"] - gain["gain"] == pytest.approx(half, rel=0.1)
    assert gain["gain"] - gain["low"] == pytest.approx(half, rel=0.1)
    # If the two were treated as independent, the interval would be much wider.
    apart = math.sqrt(sum(x.correct.var() for x in (base, better)) / 400)
    assert 1.96 * apart > 1.5 * half


def test_calls_are_resampled_together_with_accuracies():
    # The calls of the trained point vary with the prompts, and with them the base's accuracy.
    spread = Outcomes(np.ones(400), np.where(np.arange(400) % 2, 3, 16))
    (gain,) = paired_gains(BASE[::2], [spread], None)["grid"]
    assert gain["high"] - gain["low"] > 0.02


def test_frontiers_without_common_calls_have_no_mean_gain():
    got = paired_gains(BASE[:1], BASE[1:], None, resamples=10)
    assert got["mean"] is None
    assert len(got["grid"]) == 2


def test_rows_with_the_same_prompt_are_drawn_together():
    correct, prompt = np.array([1.0, 0.0, 1.0, 1.0, 0.0]), np.array([0, 3, 3, 0, 1])
    weights = bootstrap.resample_weights(Outcomes(correct, correct, prompt), 500, 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 3])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 2])
    assert not np.array_equal(weights[:, 0], weights[:, 1])
    # Three clusters: one of them is left out of (2/3)^3 of the resamples.
    assert (weights[:, 4] == 0).mean() == pytest.approx(8 / 27, abs=0.06)


def test_repeated_prompts_widen_the_interval():
    """100 prompts repeated four times carry as much information as 100 prompts."""
    base = [outcomes(0.9, 16, 100), outcomes(0.5, 4, 100)]
    trained = [outcomes(0.95, 16, 100), outcomes(0.7, 4, 100)]

    def four(points):
        return [
            Outcomes(*(np.tile(x, 4) for x in (p.correct, p.nfe, np.arange(100)))) for p in points
        ]

    def width(gains):
        return gains["mean"]["high"] - gains["mean"]["low"]

    once = width(bootstrap.paired_gains(base, trained, None))
    tiled = width(bootstrap.paired_gains(four(base), four(trained), None))
    assert tiled == pytest.approx(once, rel=0.15)
