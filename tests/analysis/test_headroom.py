import numpy as np
import pytest

from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.analysis.headroom import PRICES, best_dial_per_prompt, choose_dials


def test_each_prompt_takes_the_dial_that_suits_it_by_hand():
    fast = Outcomes(np.array([1.0, 0.0, 0.0]), np.array([2.0, 2.0, 1.0]))
    slow = Outcomes(np.array([1.0, 1.0, 0.0]), np.array([8.0, 6.0, 9.0]))
    points = best_dial_per_prompt([fast, slow], [0.01, 0.3])
    # The first and the third are never worth more calls; the second is, unless four cost 1.2.
    assert points[0] == {
        "price": 0.01,
        "accuracy": pytest.approx(2 / 3),
        "nfe": pytest.approx((2 + 6 + 1) / 3),
    }
    assert points[1]["accuracy"] == pytest.approx(1 / 3)
    assert points[1]["nfe"] == pytest.approx(5 / 3)


def test_it_is_never_below_a_single_dial_at_any_price():
    rng = np.random.default_rng(0)
    dials = [Outcomes(rng.integers(2, size=50) * 1.0, rng.integers(1, 9, 50) * 1.0) for _ in "abc"]
    for point in best_dial_per_prompt(dials):
        value = point["accuracy"] - point["price"] * point["nfe"]
        for dial in dials:
            assert value >= dial.correct.mean() - point["price"] * dial.nfe.mean() - 1e-12
    assert [point["price"] for point in best_dial_per_prompt(dials)] == list(PRICES)


def test_expectations_choose_and_what_happens_counts_by_hand():
    fast = Outcomes(np.array([1.0, 0.0]), np.array([2.0, 2.0]), np.array([0, 1]))
    slow = Outcomes(np.array([0.0, 1.0]), np.array([8.0, 6.0]), np.array([0, 1]))
    # Expected: the first is worth slow calls up to a price of 0.05, the second never.
    hopes = Outcomes(np.array([0.5, 0.6]), np.array([2.0, 2.0]))
    slowly = Outcomes(np.array([0.8, 0.6]), np.array([8.0, 7.0]))
    cheap, dear = choose_dials([hopes, slowly], [fast, slow], (0.01, 0.06))
    np.testing.assert_array_equal(cheap.correct, [0, 0])
    np.testing.assert_array_equal(cheap.nfe, [8, 2])
    np.testing.assert_array_equal(dear.correct, [1, 0])
    np.testing.assert_array_equal(dear.nfe, [2, 2])
    np.testing.assert_array_equal(dear.prompt, [0, 1])
