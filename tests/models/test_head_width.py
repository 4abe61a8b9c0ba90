"""Heads of another width than D / H, with normalised queries and keys: what depends on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.config import Config, LoRAConfig, MeshConfig, ModelConfig, convert
from diffpo_jax.distributed import sharding
from diffpo_jax.distributed.mesh import make_mesh
from diffpo_jax.models import flops, huggingface, lora, quantization
from diffpo_jax.system.errors import UserError

# Heads of 6, where D / H is 4; with a small base every position turns the pairs far.
SIZES = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 6, "qk_norm": True}
SIZES |= {"rope_theta": 50.0, "norm_eps": 0.01}
CONFIG = ModelConfig(width=16, ff=16, **SIZES)
LORA = LoRAConfig(rank=2, alpha=4.0)
POLICY, PARAMS = reference.tiny_policy(lora=LORA, **SIZES)
TOKENS = np.array([[0, 0, 3, 1, 4, 2], [4, 0, 2, 5, 1, 3]], np.int32)
MASK = np.array([[False, False, True, True, True, True], [True] * 6])


@functools.cache
def hidden():
    return jax.jit(POLICY.hidden)


def adapter():
    made = POLICY.init_adapter(jax.random.key(1))
    return jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), made)


@pytest.mark.parametrize("row", [0, 1])
def test_hidden_states_equal_plain_matrices(row):
    got = hidden()(PARAMS, TOKENS, MASK)
    expected, _ = reference.denoiser(PARAMS, TOKENS[row], MASK[row], CONFIG)
    np.testing.assert_allclose(got[row][MASK[row]], expected[MASK[row]], atol=1e-5)


def test_an_adapter_equals_merged_kernels_and_serves_cached_passes():
    params = PARAMS | {"adapter": adapter()}
    merged = lora.merge(PARAMS["denoiser"], params["adapter"], LORA)
    whole, kv = jax.jit(POLICY.hidden_and_kv)(params, TOKENS, MASK)
    expected = hidden()(PARAMS | {"denoiser": merged}, TOKENS, MASK)
    np.testing.assert_allclose(whole, expected, atol=2e-5)
    assert np.abs(whole - hidden()(PARAMS, TOKENS, MASK)).max() > 0.1
    assert kv[0].shape == (2, 2, 2, 6, 6)  # layers, rows, key heads, positions, Dh
    within = jax.jit(POLICY.hidden_within, static_argnums=5)
    part = within(params, kv, TOKENS, MASK, jnp.array([3, 2]), 3)
    np.testing.assert_allclose(part[0], whole[0, 3:6], atol=2e-5)
    np.testing.assert_allclose(part[1], whole[1, 2:5], atol=2e-5)


def test_quantized_kernels_are_multiplied_out():
    few = quantization.quantize_blocks(PARAMS, "nf4")
    blocks = few["denoiser"]["blocks"]
    kept = [x for x in blocks.values() if isinstance(x, quantization.Quantized)]
    assert len(kept) == 7
    dense = {
        name: quantization.dequantize(x, jnp.float32)
        if isinstance(x, quantization.Quantized)
        else x
        for name, x in blocks.items()
    }
    made = few | {"denoiser": few["denoiser"] | {"blocks": dense}}
    got = hidden()(few, TOKENS, MASK)
    np.testing.assert_allclose(got, hidden()(made, TOKENS, MASK), atol=1e-5)


def test_eight_devices_give_the_gradient_of_one():
    tokens = jax.random.randint(jax.random.key(0), (8, 7), 0, 5)
    mask = jnp.ones((8, 7), bool)

    def gradient(mesh_config):
        mesh = make_mesh(mesh_config)
        rows = sharding.batch_sharding(mesh) if mesh.size > 1 else None
        policy, _ = reference.tiny_policy(rows=rows, **SIZES)
        params = jax.device_put(PARAMS, sharding.shardings(PARAMS, mesh))

        def loss(denoiser):
            own = {"denoiser": denoiser}
            return jnp.mean(jnp.sin(policy.logits(own, policy.hidden(own, tokens, mask))))

        return jax.device_get(jax.jit(jax.grad(loss))(params["denoiser"]))

    alone, split = gradient(MeshConfig()), gradient(MeshConfig(data=2, fsdp=2, tensor=2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), split, alone)
    assert all(np.abs(x).max() > 1e-5 for x in jax.tree.leaves(alone))


def test_operations_are_those_of_the_kernels():
    shapes = flops.kernel_shapes(CONFIG)
    assert shapes == {name: PARAMS["denoiser"]["blocks"][name].shape[1:] for name in shapes}
    network = flops.Network(CONFIG, LoRAConfig(), vocab=6)
    got = flops.call_flops(network, tokens=3, keys=5, read=1)
    assert got.attention == 2 * (2 * 3 * 5 * 6) * 4 * 2  # two products, four heads, two layers


def test_a_written_network_is_read_again(tmp_path):
    huggingface.write(tmp_path / "out", PARAMS["denoiser"], CONFIG, lineage={})
    model = huggingface.adopt_sizes(ModelConfig(weights=str(tmp_path / "out")))
    assert (model.family, model.head_dim, model.qk_norm) == ("tiny", 6, True)
    shapes = sharding.abstract({"denoiser": PARAMS["denoiser"]}, make_mesh(MeshConfig()))
    again = huggingface.read_weights(tmp_path / "out", shapes["denoiser"], "tiny")
    jax.tree.map(np.testing.assert_array_equal, again, PARAMS["denoiser"])


def test_the_width_of_heads_is_checked():
    def build(**fields):
        given = convert.as_config_dict(Config())
        given.update_from_flattened_dict({f"model.{name}": x for name, x in fields.items()})
        return convert.from_config_dict(given).model

    assert build(width=64, heads=3, kv_heads=3, head_dim=8).head_width == 8
    assert build(width=64, heads=4).head_width == 16
    with pytest.raises(UserError, match="head_dim=7 must be even"):
        build(head_dim=7)
    with pytest.raises(UserError, match=r"or set config\.model\.head_dim"):
        build(width=64, heads=3, kv_heads=3)
