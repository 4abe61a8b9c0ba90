"""Operations by hand, and as XLA counts them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.config import LoRAConfig, ModelConfig
from diffpo_jax.models import flops
from diffpo_jax.models.flops import Network

SIZES = {"width": 128, "layers": 2, "heads": 4, "kv_heads": 2, "ff": 384, "scan_unroll": 2}
ROWS, TOKENS, VOCAB = 2, 48, 500


def test_by_hand():
    """D 4, two heads of 2, one key head, F 6, two layers, V 10, an adapter of rank 2 on q."""
    model = ModelConfig(width=4, heads=2, kv_heads=1, ff=6, layers=2)
    network = Network(model, LoRAConfig(rank=2, targets=("q",)), vocab=10)
    got = flops.of_call(network, tokens=3, keys=5, read=2)
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
    ours = flops.of_call(network, tokens=TOKENS, keys=TOKENS, read=TOKENS)
    # Elementwise work is in XLA's count, and not in ours.
    assert np.divide(counted, ROWS * ours.forward) == pytest.approx([1, 3], rel=0.04)
