import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.report.statistics import pass_at_k


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([[True]], {}),
        ([[True], [False]], {}),
        ([[True, False]], {1: 0.5, 2: 1.0}),
        ([[False, False, False], [True, True, True]], {1: 0.5, 2: 0.5}),
        ([[True, False, False, False]], {1: 0.25, 2: 0.5, 4: 1.0}),
        ([[True, False, False, False, False], [False] * 4], {1: 0.1, 2: 0.2, 4: 0.4}),
        ([[True, False, True], [False]], {1: 1 / 3}),  # as many as every problem has
    ],
)
def test_pass_at_k_by_hand(verdicts, expected):
    assert pass_at_k(verdicts) == pytest.approx(expected)


@given(st.lists(st.booleans(), min_size=2, max_size=7))
def test_pass_at_k_counts_subsets(verdicts):
    for k, value in pass_at_k([verdicts]).items():
        subsets = list(itertools.combinations(verdicts, k))
        assert value == pytest.approx(sum(map(any, subsets)) / len(subsets))
