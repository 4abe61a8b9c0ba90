"""Prompts are drawn in proportion to how often groups of their difficulty are mixed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.rl import prompt_sampling


def test_running_means_by_hand():
    correct = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
    difficulty = np.array([4.0, 4.0, 9.5, 14.0])
    first = prompt_sampling.observe({}, difficulty, correct)
    assert first == pytest.approx({"4": 0.95, "9.5": 0.9, "14": 1.0})  # all begin at 1
    second = prompt_sampling.observe(first, np.array([4.0, 9.5]), np.array([[1, 1], [1, 0]], bool))
    assert second == pytest.approx({"4": 0.855, "9.5": 0.91, "14": 1.0})
    assert first["4"] == pytest.approx(0.95)  # the one before stays


def test_prompts_are_drawn_in_proportion_to_their_weights():
    """One of two candidates: difficulty 1 has weight 0.2, difficulty 2 weight 0.6."""
    rng = np.random.default_rng(0)
    mixed, at_hand = {"1": 0.2, "2": 0.6}, np.array([1.0, 2.0])
    taken = [prompt_sampling.choose(at_hand, 1, mixed, rng)[0] for _ in range(4000)]
    assert np.mean(taken) == pytest.approx(0.75, abs=0.02)


def test_a_difficulty_that_is_never_mixed_is_still_drawn_sometimes():
    rng = np.random.default_rng(0)
    mixed, at_hand = {"1": 0.0, "2": 0.95}, np.array([1.0, 2.0])
    taken = [prompt_sampling.choose(at_hand, 1, mixed, rng)[0] for _ in range(4000)]
    assert np.mean(np.array(taken) == 0) == pytest.approx(0.05, abs=0.015)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.data())
def test_chosen_prompts_are_a_subset_in_order(difficulty, data):
    take = data.draw(st.integers(1, len(difficulty)))
    at_hand = np.array(difficulty, float)
    mixed = {"1": 0.3, "4": 0.0}
    taken = prompt_sampling.choose(at_hand, take, mixed, np.random.default_rng(0))
    assert len(taken) == take
    assert np.all(np.diff(taken) > 0)
    assert taken.min() >= 0
    assert taken.max() < len(difficulty)
    again = prompt_sampling.choose(at_hand, take, mixed, np.random.default_rng(0))
    np.testing.assert_array_equal(taken, again)
