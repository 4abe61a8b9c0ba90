import numpy as np
import pytest

from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.analysis.headroom import PRICES, best_dial_per_prompt


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
