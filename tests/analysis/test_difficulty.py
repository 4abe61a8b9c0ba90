import numpy as np
import pytest

from diffpo_jax.report import difficulty, figures


def test_levels_by_hand():
    got = difficulty.by_difficulty([4, 2, 4, 4], [0.1, 0.4, 0.2, 0.3], [8, 2, 6, 7], [1, 1, 0, 1])
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


def test_correlations_are_pearson_s():
    draw = np.random.default_rng(0)
    hard = draw.integers(4, 15, 200)
    gamma = np.exp(-0.2 * hard + draw.normal(size=200))
    nfe = hard + draw.normal(size=200)
    got = difficulty.by_difficulty(hard, gamma, nfe, np.ones(200))
    assert got["log_gamma"] == pytest.approx(np.corrcoef(hard, np.log(gamma))[0, 1])
    assert got["calls"] == pytest.approx(np.corrcoef(hard, nfe)[0, 1])


def test_what_never_differs_has_no_correlation():
    got = difficulty.by_difficulty([3, 3, 3], [0.1, 0.2, 0.3], [1, 2, 3], [1, 1, 1])
    assert (got["log_gamma"], got["calls"]) == (None, None)
    got = difficulty.by_difficulty([1, 2, 3], [0.1, 0.1, 0.1], [1, 2, 3], [1, 1, 1])
    assert got["log_gamma"] is None
    assert got["calls"] == pytest.approx(1.0)


def test_the_picture_draws_every_level(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(difficulty, "save", lambda figure, path: seen.append(figure))
    found = difficulty.by_difficulty([1, 2, 2], [0.4, 0.2, 0.2], [2, 4, 6], [1, 1, 0])
    difficulty.plot_by_difficulty(found, tmp_path / "d.png")
    threshold, calls, accuracy = seen[0].get_axes()
    assert threshold.get_lines()[0].get_xydata().tolist() == [[1, 0.4], [2, 0.2]]
    assert calls.get_lines()[0].get_xydata().tolist() == [[1, 2], [2, 5]]
    assert accuracy.get_lines()[0].get_xydata().tolist() == [[1, 100], [2, 50]]
    figures.save(seen[0], tmp_path / "d.png")
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
