"""Operations by hand, and as XLA counts them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.config import (
    LikelihoodConfig,
    LoRAConfig,
    ModelConfig,
    ObjectiveConfig,
    RLConfig,
    SamplerConfig,
    StateHeadConfig,
)
from diffpo_jax.models import flops
from diffpo_jax.models.flops import Network

SIZES = {"width": 128, "layers": 2, "heads": 4, "kv_heads": 2, "ff": 384, "scan_unroll": 2}
ROWS, TOKENS, VOCAB = 2, 48, 500


def test_by_hand():
    """D 4, two heads of 2, one key head, F 6, two layers, V 10, an adapter of rank 2 on q."""
    model = ModelConfig(width=4, heads=2, kv_heads=1, ff=6, layers=2)
    network = Network(model, LoRAConfig(rank=2, targets=("q",)), vocab=10)
    got = flops.call_flops(network, tokens=3, keys=5, read=2)
    block = 4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 6  # q; k and v; o; gate, up and down
    assert got.weights == 2 * 3 * 2 * block + 2 * 2 * 4 * 10
    assert got.adapter == 2 * 3 * 2 * 2 * (4 + 4)
    assert got.attention == 2 * (2 * 3 * 5 * 4) * 2
    assert got.forward == 1600 + 192 + 480
    assert got.gradient(whole=True) == 3 * got.forward
    assert got.gradient(whole=False) == 2 * 1600 + 3 * (192 + 480)


@pytest.fixture(scope="module")
def counted():
    """XLA's count of a call and of its gradient; its loops are unrolled, or it takes them once."""
    policy, params = reference.tiny_policy(vocab=VOCAB, **SIZES)
    tokens, mask = jnp.zeros((ROWS, TOKENS), jnp.int32), jnp.ones((ROWS, TOKENS), bool)

    def call(denoiser):
        given = params | {"denoiser": denoiser}
        return jnp.sum(policy.logits(given, policy.hidden(given, tokens, mask)) ** 2)

    def count(function):
        return jax.jit(function).lower(params["denoiser"]).compile().cost_analysis()["flops"]

    return count(call), count(jax.grad(call))


def test_as_xla_counts(counted):
    network = Network(ModelConfig(**SIZES), LoRAConfig(), VOCAB)
    ours = flops.call_flops(network, tokens=TOKENS, keys=TOKENS, read=TOKENS)
    # Elementwise work is in XLA's count, and not in ours.
    assert np.divide(counted, ROWS * ours.forward) == pytest.approx([1, 3], rel=0.04)


SMALL = Network(ModelConfig(width=4, heads=2, kv_heads=1, ff=6, layers=2), LoRAConfig(), 10)
SAMPLER = SamplerConfig(prompt_length=3, length=6, block_length=2, vocabulary_chunk=None)
NFE = np.array([4, 2])
# Row 0: two calls, then one, then one, in blocks of two.  Row 1 ends in its second block.
COMMIT_CALL = np.array([[1, 2, 3, 3, 4, 4], [1, 1, 2, 3, 3, 3]])


def call(tokens, read):
    return flops.call_flops(SMALL, tokens=tokens, keys=9, read=read).forward


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 6 * call(9, 6)),
        # The block alone is read, in whole chunks.
        ({"vocabulary_chunk": 2}, 6 * call(9, 2)),
        ({"vocabulary_chunk": 3}, 6 * call(9, 3)),
        ({"vocabulary_chunk": 1, "block_length": 6}, 6 * call(9, 6)),
        # A whole pass as each of five blocks is entered.
        ({"cache": "dual"}, 6 * call(2, 6) + 5 * call(9, 0)),
        ({"cache": "prompt"}, 6 * call(6, 6) + 5 * call(9, 0)),
        ({"cache": "dual", "cache_refresh": 1}, 6 * call(2, 6) + 6 * call(9, 0)),
        ({"cache": "dual", "cache_refresh": 2}, 6 * call(2, 6) + 5 * call(9, 0)),
    ],
)
def test_rollout_flops(changes, expected):
    sampler = dataclasses.replace(SAMPLER, **changes)
    assert flops.rollout_flops(SMALL, sampler, COMMIT_CALL, NFE) == expected


def test_the_head_by_state_counts_at_every_call():
    head = StateHeadConfig(width=5, hidden=True, pairs=2)
    network = SMALL._replace(head=head)
    # Inputs: 8 numbers, 6 sums of 2 weights, 4 of the hidden state; two layers, four outputs.
    position = (8 + 6 * 2 + 4) * 5 + 5 * 5 + 5 * 4
    pair = 4 + 2 * 2
    each = 2 * (2 * position + 2 * 2 * pair)
    assert flops.head_flops(network, 2) == each and flops.head_flops(SMALL, 2) == 0
    whole = flops.rollout_flops(network, SAMPLER, COMMIT_CALL, NFE)
    assert whole == flops.rollout_flops(SMALL, SAMPLER, COMMIT_CALL, NFE) + 6 * each


@pytest.mark.parametrize(
    ("anchors", "objective", "compared", "expected"),
    [
        (2, {}, False, (2 * 2, 3 * 2)),  # the first update scores itself
        (2, {}, True, (5 * 2, 3 * 2)),
        (2, {"kl_in": "reward"}, True, (4 * 2, 3 * 2)),
        ("all", {}, False, (2 * 3, 3 * 3)),  # micro-batches of one: four and two passes
        (1, {"selection": "exact"}, False, (2, 3 + 3 * 3)),
    ],
)
def test_passes_of_three_updates(anchors, objective, compared, expected):
    config = RLConfig(
        inner_updates=3,
        micro_batch=1,
        likelihood=LikelihoodConfig(anchors=anchors),
        objective=ObjectiveConfig(**objective),
    )
    assert flops.update_passes(NFE, config, compared=compared)[:2] == expected
    # The sampler's first call is the first anchor of the old policy.
    by_old = 3 if objective.get("kl_in") == "reward" else 2
    passes = flops.update_passes(NFE, config, 1, compared=compared)
    assert passes[:2] == (expected[0] - by_old, expected[1])


@pytest.mark.parametrize(
    ("likelihood", "expected"),
    [
        ({"anchors": 2}, (1 + 2 * 1.5, 2 * 1.5)),
        ({"anchors": "all"}, (3 + 2 * 3.5, 2 * 3.5)),  # the longest row has four calls
        ({"anchors": "all", "shrink": 3}, (1 + 2 * 1.5, 2 * 1.5)),  # of which two are anchors
        ({"anchors": 1, "prompt_masking": 0.1}, (1 + 2, 2)),  # each row has a prompt of its own
        # One prompt for both rows, which is not the sampler's.
        ({"anchors": 1, "prompt_masking": 0.1, "masked_per": "prompt"}, (0.5 + 2 * 0.5, 2 * 0.5)),
        ({"anchors": "all", "calls": 2}, (2 + 2 * 2, 2 * 2)),
    ],
)
def test_rows_of_a_prompt_share_their_first_pass(likelihood, expected):
    """Two updates with a KL in the loss; both rows have the same prompt."""
    config = RLConfig(inner_updates=2, micro_batch=None, likelihood=LikelihoodConfig(**likelihood))
    assert flops.update_passes(NFE, config, 2, compared=True)[:2] == expected
    assert flops.rollout_flops(SMALL, SAMPLER, COMMIT_CALL, NFE, 2) == 5 * call(9, 6)
    cached = dataclasses.replace(SAMPLER, cache="dual")
    alone = flops.rollout_flops(SMALL, cached, COMMIT_CALL, NFE)
    assert flops.rollout_flops(SMALL, cached, COMMIT_CALL, NFE, 2) == alone


def test_update_flops():
    """Four passes and six gradients of nine tokens; those of an adapter spare a third."""
    one = flops.call_flops(SMALL, tokens=9, keys=9, read=6)
    done = flops.Passes(4.0, 6.0)
    assert flops.update_flops(SMALL, SAMPLER, done, whole=True) == (4 + 18) * one.forward
    spared = flops.update_flops(SMALL, SAMPLER, done, whole=False)
    assert spared == (4 + 18) * one.forward - 6 * one.weights


def test_throughput_by_hand():
    """2e12 operations in 4 s on two chips of 1e12 a second: a quarter of what they can do."""
    assert flops.throughput(2e12, 80, 4.0, 2, 1e12) == {
        "tokens_per_second_per_chip": 10.0,
        "mfu": 0.25,
    }
    assert "mfu" not in flops.throughput(2e12, 80, 4.0, 2, None)


BLOCKS = SMALL._replace(model=dataclasses.replace(SMALL.model, attention_block=2))


def test_rollouts_of_blocks():
    """Blocks of 2 of 11 keys; two prompts with a block; three blocks that rows have left."""
    sampler = dataclasses.replace(SAMPLER, cache="block")

    def one(tokens, keys, read):
        return flops.call_flops(BLOCKS, tokens=tokens, keys=keys, read=read).forward

    expected = 6 * one(2, 11, 6) + 2 * one(5, 5, 0) + 3 * one(2, 11, 0)
    assert flops.rollout_flops(BLOCKS, sampler, COMMIT_CALL, NFE) == expected


@pytest.mark.parametrize(("anchors", "each"), [(1, 1), (2, 2), ("all", 2)])
def test_updates_of_blocks(anchors, each):
    """Three updates: K passes over noisy blocks, and one over the clean row, for each score."""
    own = LikelihoodConfig(anchors=anchors)
    config = RLConfig(inner_updates=3, micro_batch=None, likelihood=own)
    passes = flops.update_passes(NFE, config, 2, compared=False, block=2)
    assert passes == (2 * each, 3 * each, 2, 3)
    noisy = flops.call_flops(BLOCKS, tokens=6, keys=15, read=6).forward
    clean = flops.call_flops(BLOCKS, tokens=9, keys=9, read=0).forward
    expected = (2 + 3 * 3) * (each * noisy + clean)
    assert flops.update_flops(BLOCKS, SAMPLER, passes, whole=True) == pytest.approx(expected)
