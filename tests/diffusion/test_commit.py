import jax
import jax.numpy as jnp
import numpy as np
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffpo_jax.diffusion import commit

ROWS, LENGTH = 3, 5
rule = jax.jit(commit.entropy_bounded)

# Multiples of 1/64: their sums are exact in float32, so ties and equalities are real ones.
dyadic = st.integers(0, 96).map(lambda n: n / 64)
few = st.sampled_from([0.0, 0.25, 0.5, 1.0])  # ties
any_entropy = st.floats(0, 2, width=32, allow_subnormal=False)
masks = hnp.arrays(bool, (ROWS, LENGTH))


def matrices(elements):
    return hnp.arrays(np.float32, (ROWS, LENGTH), elements=elements)


def vectors(elements):
    return hnp.arrays(np.float32, (ROWS,), elements=elements)


def apply(entropy, open_, gamma):
    return np.asarray(rule(jnp.asarray(entropy), jnp.asarray(open_), jnp.asarray(gamma)))


def assert_brute_force(entropy, open_, gamma):
    got = apply(entropy, open_, gamma)
    for row in range(ROWS):
        expected = reference.committed(entropy[row], open_[row], float(gamma[row]))
        assert set(np.flatnonzero(got[row])) == expected


@given(matrices(dyadic | few), masks, vectors(dyadic | few))
def test_equals_brute_force_where_sums_are_exact(entropy, open_, gamma):
    assert_brute_force(entropy, open_, gamma)


@given(matrices(any_entropy), masks, vectors(any_entropy))
def test_equals_brute_force_away_from_rounding(entropy, open_, gamma):
    h = np.sort(np.where(open_, entropy, 0.0), axis=1).astype(np.float64)
    closed = (~open_).sum(axis=1)
    for row in range(ROWS):
        prefixes = h[row, closed[row] :]
        excess = np.cumsum(prefixes) - prefixes  # ascending: the maximum is the last
        assume(not ((excess > 0) & (np.abs(excess - gamma[row]) < 1e-5)).any())
    assert_brute_force(entropy, open_, gamma)


@given(matrices(any_entropy | st.just(0.0)), masks)
def test_gamma_zero_commits_the_lowest_and_all_of_entropy_zero(entropy, open_):
    got = apply(entropy, open_, np.zeros(ROWS, np.float32))
    for row in range(ROWS):
        positions = np.flatnonzero(open_[row])
        expected = {p for p in positions if entropy[row, p] == 0}
        others = [p for p in positions if entropy[row, p] > 0]
        if others:  # the first of positive entropy is free: it is the maximum of its prefix
            expected.add(min(others, key=lambda p: (entropy[row, p], p)))
        assert set(np.flatnonzero(got[row])) == expected


def test_gamma_zero_is_not_fooled_by_cancellation():
    # In float32 (1e-9 + 3) - 3 = 0, which would commit both.
    got = apply(np.array([[3.0, 1e-9, 2.0]], np.float32), np.ones((1, 3), bool), np.zeros(1))
    np.testing.assert_array_equal(got, [[False, True, False]])


@given(matrices(any_entropy), masks)
def test_gamma_infinite_commits_all_that_is_open(entropy, open_):
    np.testing.assert_array_equal(apply(entropy, open_, np.full(ROWS, np.inf)), open_)


@given(matrices(any_entropy), masks, vectors(any_entropy), vectors(any_entropy))
def test_sets_grow_with_gamma(entropy, open_, gamma, more):
    smaller = apply(entropy, open_, gamma)
    larger = apply(entropy, open_, gamma + more)
    assert not (smaller & ~larger).any()


@given(matrices(any_entropy | st.sampled_from([np.inf, np.nan])), masks, vectors(any_entropy))
@settings(max_examples=50)
def test_closed_positions_are_neither_committed_nor_read(noise, open_, gamma):
    entropy = np.where(open_, np.linspace(0.1, 1.0, LENGTH, dtype=np.float32), noise)
    got = apply(entropy, open_, gamma)
    assert not (got & ~open_).any()
    np.testing.assert_array_equal(got, apply(np.where(open_, entropy, 0), open_, gamma))


@given(matrices(any_entropy), masks, vectors(any_entropy))
@settings(max_examples=50)
def test_commits_at_least_one_where_one_is_open(entropy, open_, gamma):
    np.testing.assert_array_equal(apply(entropy, open_, gamma).any(axis=1), open_.any(axis=1))


def test_entropies_that_are_nan_are_committed_at_once():
    entropy = np.array([[0.5, np.nan, 0.2, np.nan]], np.float32)
    got = apply(entropy, np.array([[True, True, True, False]]), np.array([0.1]))
    np.testing.assert_array_equal(got, [[False, True, True, False]])


def test_a_bound_that_is_nan_commits_at_least_one():
    got = apply(np.ones((1, 3), np.float32), np.ones((1, 3), bool), np.array([np.nan]))
    assert got.any()


def test_ties_go_to_the_left():
    entropy = np.array([[0.5, 0.25, 0.25, 0.25, 0.5]], np.float32)
    got = apply(entropy, np.ones((1, 5), bool), np.array([0.25]))
    np.testing.assert_array_equal(got, [[False, True, True, False, False]])


def test_one_example_by_hand():
    # Ascending 0.1 0.2 0.4 0.8: excesses 0, 0.1, 0.3, 0.7.
    entropy = np.array([[0.4, 0.1, 0.8, 0.2]], np.float32)
    for gamma, expected in [(0.09, [1]), (0.11, [1, 3]), (0.5, [0, 1, 3]), (0.71, [0, 1, 2, 3])]:
        got = apply(entropy, np.ones((1, 4), bool), np.array([gamma], np.float32))
        assert list(np.flatnonzero(got[0])) == expected


def test_prefix_excess_by_hand_in_any_order():
    h = jnp.array([[3.0, 1.0, 2.0, 0.5, 5.0], [0.0, 0.0, 2.0, 0.0, 1.0]])
    # 3 | 4 - 3 | 6 - 3 | 6.5 - 3 | 11.5 - 5
    expected = [[0.0, 1.0, 3.0, 3.5, 6.5], [0.0, 0.0, 0.0, 0.0, 1.0]]
    np.testing.assert_allclose(commit.prefix_excess(h), expected)


@given(hnp.arrays(np.float32, (2, LENGTH), elements=dyadic))
@settings(max_examples=50)
def test_prefix_excess_is_sum_minus_maximum(h):
    expected = np.cumsum(h, axis=1) - np.maximum.accumulate(h, axis=1)
    np.testing.assert_array_equal(commit.prefix_excess(jnp.asarray(h)), expected)
