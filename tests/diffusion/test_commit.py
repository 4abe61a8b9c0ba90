"""Commit rules, against brute force in exact arithmetic and numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffpo_jax.diffusion import commit, token_distribution
from diffpo_jax.diffusion.settings import Rule

ROWS, LENGTH = 3, 5
rule = jax.jit(lambda h, open_, gamma: commit.entropy_bounded(h, h, open_, gamma))

# Multiples of 1/64, whose sums are exact in float32, so that ties and equalities are exact.
dyadic = st.integers(0, 96).map(lambda n: n / 64)
few = st.sampled_from([0.0, 0.25, 0.5, 1.0])  # makes ties
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
def test_rule_equals_brute_force_with_exact_sums(entropy, open_, gamma):
    assert_brute_force(entropy, open_, gamma)


@given(matrices(any_entropy), masks, vectors(any_entropy))
def test_rule_equals_brute_force_up_to_rounding(entropy, open_, gamma):
    h = np.sort(np.where(open_, entropy, 0.0), axis=1).astype(np.float64)
    closed = (~open_).sum(axis=1)
    for row in range(ROWS):
        prefixes = h[row, closed[row] :]
        excess = np.cumsum(prefixes) - prefixes  # in ascending order the maximum is the last
        assume(not ((excess > 0) & (np.abs(excess - gamma[row]) < 1e-5)).any())
    assert_brute_force(entropy, open_, gamma)


@given(matrices(any_entropy | st.just(0.0)), masks)
def test_gamma_zero_commits_all_zero_entropies_and_the_lowest_other(entropy, open_):
    got = apply(entropy, open_, np.zeros(ROWS, np.float32))
    for row in range(ROWS):
        positions = np.flatnonzero(open_[row])
        expected = {p for p in positions if entropy[row, p] == 0}
        others = [p for p in positions if entropy[row, p] > 0]
        if others:  # the lowest positive entropy adds no excess: it is the maximum of its prefix
            expected.add(min(others, key=lambda p: (entropy[row, p], p)))
        assert set(np.flatnonzero(got[row])) == expected


def test_gamma_zero_is_exact_despite_rounding():
    # In float32 (1e-9 + 3) - 3 = 0, which would commit both.
    got = apply(np.array([[3.0, 1e-9, 2.0]], np.float32), np.ones((1, 3), bool), np.zeros(1))
    np.testing.assert_array_equal(got, [[False, True, False]])


@given(matrices(any_entropy), masks)
def test_infinite_gamma_commits_all_open_positions(entropy, open_):
    np.testing.assert_array_equal(apply(entropy, open_, np.full(ROWS, np.inf)), open_)


@given(matrices(any_entropy), masks, vectors(any_entropy), vectors(any_entropy))
def test_committed_set_grows_with_gamma(entropy, open_, gamma, more):
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
def test_rows_with_an_open_position_commit_at_least_one(entropy, open_, gamma):
    np.testing.assert_array_equal(apply(entropy, open_, gamma).any(axis=1), open_.any(axis=1))


def test_nan_entropies_are_committed_at_once():
    entropy = np.array([[0.5, np.nan, 0.2, np.nan]], np.float32)
    got = apply(entropy, np.array([[True, True, True, False]]), np.array([0.1]))
    np.testing.assert_array_equal(got, [[False, True, True, False]])


def test_nan_gamma_commits_at_least_one():
    got = apply(np.ones((1, 3), np.float32), np.ones((1, 3), bool), np.array([np.nan]))
    assert got.any()


def test_ties_go_to_the_leftmost_position():
    entropy = np.array([[0.5, 0.25, 0.25, 0.25, 0.5]], np.float32)
    got = apply(entropy, np.ones((1, 5), bool), np.array([0.25]))
    np.testing.assert_array_equal(got, [[False, True, True, False, False]])


def test_rule_by_hand():
    # In ascending order 0.1 0.2 0.4 0.8, with excesses 0, 0.1, 0.3, 0.7.
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


# Rules that commit a given number of positions.

counted = jax.jit(commit.top_k)
scores = few | st.floats(-1, 1, width=32, allow_subnormal=False)
odd = scores | st.sampled_from([np.inf, np.nan])


def by_hand(error, open_, count):
    """The first `count` open positions by (error, position)."""
    places = sorted(np.flatnonzero(open_), key=lambda p: (error[p], p))
    return set(places[:count])


@given(matrices(scores), masks, hnp.arrays(np.int32, ROWS, elements=st.integers(0, LENGTH + 1)))
def test_top_k_commits_the_least_errors(error, open_, count):
    got = np.asarray(counted(jnp.asarray(error), jnp.asarray(open_), jnp.asarray(count)))
    for row in range(ROWS):
        assert set(np.flatnonzero(got[row])) == by_hand(error[row], open_[row], count[row])


@given(matrices(odd), masks)
def test_top_k_commits_one_whatever_the_errors(error, open_):
    got = counted(jnp.asarray(error), jnp.asarray(open_), jnp.ones(ROWS, jnp.int32))
    np.testing.assert_array_equal(np.asarray(got).sum(axis=1), open_.any(axis=1))


def test_entropy_sum_counts_every_entropy():
    # In order: 0.25, 0.5, 0.5, 1; sums 0.25, 0.75, 1.25, 2.25.  The last row is done.
    h = jnp.array([[0.5, 1.0, 0.25, 0.5]] * 6)
    open_ = jnp.array([[True] * 4] * 5 + [[False] * 4])
    gamma = jnp.array([0.0, 0.75, 0.8, 1.25, jnp.inf, 1.0])
    got = np.asarray(jax.jit(commit.entropy_sum)(h, h, open_, gamma))
    expected = ([2], [0, 2], [0, 2], [0, 2, 3], [0, 1, 2, 3], [])
    assert [np.flatnonzero(row).tolist() for row in got] == list(expected)


def test_entropy_sum_orders_by_the_error_proxy_and_commits_one_whatever_the_numbers():
    h = jnp.array([[1.0, 0.1, 0.2], [1.0, 2.0, 3.0], [jnp.nan, 1.0, 1.0]])
    error = jnp.array([[0.0, 1.0, 2.0], [3.0, 2.0, 1.0], [2.0, 0.0, 1.0]])
    gamma = jnp.array([1.1, 0.0, jnp.nan])
    got = np.asarray(commit.entropy_sum(h, error, jnp.ones((3, 3), bool), gamma))
    # The first position costs 1 and is committed whatever it costs; the second brings 1.1.
    np.testing.assert_array_equal(
        got, [[True, True, False], [False, False, True], [False, True, False]]
    )


@given(matrices(dyadic | few), masks, vectors(dyadic | few))
def test_entropy_sum_equals_brute_force_and_commits_no_more_than_entropy_bounded(
    entropy, open_, gamma
):
    arrays = (jnp.asarray(entropy), jnp.asarray(entropy), jnp.asarray(open_), jnp.asarray(gamma))
    got = np.asarray(jax.jit(commit.entropy_sum)(*arrays))
    assert not (got & ~apply(entropy, open_, gamma)).any()
    for row in range(ROWS):
        places = sorted(np.flatnonzero(open_[row]), key=lambda p: (entropy[row, p], p))
        sizes = [
            n for n in range(1, len(places) + 1) if entropy[row, places[:n]].sum() <= gamma[row]
        ]
        assert set(np.flatnonzero(got[row])) == set(places[: max(sizes, default=1)])


@given(matrices(any_entropy), matrices(scores), masks, vectors(any_entropy))
def test_error_proxy_orders_and_entropies_bound(entropy, error, open_, gamma):
    """Entropies may fall along the proxy's order, so that the maximum is not the last."""
    got = np.asarray(
        jax.jit(commit.entropy_bounded)(*map(jnp.asarray, (entropy, error, open_, gamma)))
    )
    for row in range(ROWS):
        places = sorted(np.flatnonzero(open_[row]), key=lambda p: (error[row, p], p))
        h = entropy[row, places].astype(np.float64)
        # Sum all but the largest: a difference of sum and maximum would lose small terms.
        excess = [np.sort(h[: n + 1])[:-1].sum() for n in range(len(places))]
        assume(not any(0 < abs(e - gamma[row]) < 1e-5 for e in excess))
        size = sum(e <= gamma[row] for e in excess)
        assert set(np.flatnonzero(got[row])) == set(places[:size])


def llada_counts(size, steps):
    """LLaDA's schedule: m // S per step, one more in the first m mod S steps, no empty steps."""
    counts = [size // steps + (step < size % steps) for step in range(steps)]
    return [n for n in counts if n]


@given(st.integers(1, 12), st.integers(1, 15))
@settings(max_examples=60)
def test_block_is_filled_by_lladas_schedule(size, steps):
    open_, counts = np.ones((1, size), bool), []
    while open_.any():
        count = commit.transfer_count(jnp.asarray(open_), size, jnp.full(1, float(steps)))
        counts.append(int(count[0]))
        open_[0, np.flatnonzero(open_)[: counts[-1]]] = False
    assert counts == llada_counts(size, steps)


@pytest.mark.parametrize("steps", [0.0, -1.0, np.nan])
def test_schedule_without_steps_commits_all(steps):
    count = commit.transfer_count(jnp.ones((1, 4), bool), 4, jnp.full(1, steps))
    assert int(count[0]) == 4


levels = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, np.nan])


@pytest.mark.parametrize("fallback", ["most_confident", "leftmost"])
@given(confidence=matrices(st.sampled_from([0.25, 0.5, 0.75])), open_=masks, level=vectors(levels))
def test_confidence_rule_commits_confident_positions_or_the_fallback(
    fallback, confidence, open_, level
):
    got = np.asarray(commit.by_confidence(*map(jnp.asarray, (confidence, open_, level)), fallback))
    for row in range(ROWS):
        places = np.flatnonzero(open_[row])
        expected = {p for p in places if confidence[row, p] >= level[row]}
        if not expected and len(places):
            most = sorted(places, key=lambda p: (-confidence[row, p], p))[0]
            expected = {places[0] if fallback == "leftmost" else most}
        assert set(np.flatnonzero(got[row])) == expected


def test_unknown_rules_and_schedules_raise():
    readings, one = token_distribution.Readings(*jnp.zeros((4, 1, 2))), jnp.ones(1)
    for rule in (Rule("magic"), Rule("top_k", schedule="magic")):
        with pytest.raises(ValueError, match="magic"):
            commit.choose(rule, readings, jnp.ones((1, 2), bool), one, 2, one.astype(int))
