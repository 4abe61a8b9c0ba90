"""Splitting a batch into micro-batches."""

import itertools

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.arrays import microbatch


@given(st.data(), st.integers(1, 4), st.integers(1, 4))
def test_rows_with_similar_keys_share_a_micro_batch(data, size, parts):
    keys = data.draw(st.lists(st.integers(0, 9), min_size=size * parts, max_size=size * parts))
    order = np.asarray(microbatch.group_similar(jnp.asarray(keys), size))
    assert sorted(order) == list(range(size * parts))
    batches = np.asarray(microbatch.split(jnp.asarray(keys)[order], size))
    assert sorted(batches.ravel()) == sorted(keys)
    # The keys of a micro-batch are at least those of the one before.
    assert all(a.max() <= b.min() for a, b in itertools.pairwise(batches))
