import numpy as np
import pytest

from diffpo_jax.analysis import difficulty


def test_levels_match_numbers_worked_by_hand():
    got = difficulty.by_difficulty(
        [4, 2, 4, 4], [8, 2, 6, 7], [1, 1, 0, 1], gamma=[0.1, 0.4, 0.2, 0.3]
    )
    easy, hard = got["levels"]
    assert easy == {
        "difficulty": 2.0,
        "prompts": 1,
        "gamma_p5": 0.4,
        "gamma_p50": 0.4,
        "gamma_p95": 0.4,
        "nfe": 2.0,
        "accuracy": 1.0,
    }
    assert (hard["prompts"], hard["nfe"], hard["gamma_p50"]) == (3, 7.0, 0.2)
    assert hard["accuracy"] == pytest.approx(2 / 3)
    assert (hard["gamma_p5"], hard["gamma_p95"]) == pytest.approx((0.11, 0.29))


def test_others_stand_beside_the_trained_model_and_thresholds_may_be_absent():
    others = {"base": ([16, 16, 12], [0, 1, 0])}
    got = difficulty.by_difficulty([4, 2, 4], [8, 2, 6], [1, 1, 0], compared=others)
    assert got["log_gamma"] is None
    easy, hard = got["levels"]
    assert easy == {
        "difficulty": 2.0,
        "prompts": 1,
        "nfe": 2.0,
        "accuracy": 1.0,
        "base_nfe": 16.0,
        "base_accuracy": 1.0,
    }
    assert (hard["nfe"], hard["accuracy"]) == (7.0, 0.5)
    assert (hard["base_nfe"], hard["base_accuracy"]) == (14.0, 0.0)


def test_correlations_are_pearsons():
    draw = np.random.default_rng(0)
    hard = draw.integers(4, 15, 200)
    gamma = np.exp(-0.2 * hard + draw.normal(size=200))
    nfe = hard + draw.normal(size=200)
    got = difficulty.by_difficulty(hard, nfe, np.ones(200), gamma=gamma)
    assert got["log_gamma"] == pytest.approx(np.corrcoef(hard, np.log(gamma))[0, 1])
    assert got["calls"] == pytest.approx(np.corrcoef(hard, nfe)[0, 1])


def test_a_constant_has_no_correlation():
    got = difficulty.by_difficulty([3, 3, 3], [1, 2, 3], [1, 1, 1], gamma=[0.1, 0.2, 0.3])
    assert (got["log_gamma"], got["calls"]) == (None, None)
    got = difficulty.by_difficulty([1, 2, 3], [1, 2, 3], [1, 1, 1], gamma=[0.1, 0.1, 0.1])
    assert got["log_gamma"] is None
    assert got["calls"] == pytest.approx(1.0)


def test_mean_levels_average_the_runs_that_have_a_level():
    runs = [
        difficulty.by_difficulty([2, 1], [2, 4], [1, 1], gamma=[0.4, 0.2]),
        difficulty.by_difficulty([1, 1], [6, 6], [1, 0], gamma=[0.4, 0.4]),
    ]
    easy, hard = difficulty.mean_levels(runs)
    assert (easy["difficulty"], easy["nfe"], easy["accuracy"]) == (1.0, 5.0, 0.75)
    assert easy["gamma_p50"] == pytest.approx(0.3)
    assert (hard["difficulty"], hard["nfe"]) == (2.0, 2.0)
