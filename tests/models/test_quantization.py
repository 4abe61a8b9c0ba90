"""Quantized kernels, against a slow reference; networks, meshes and refusals."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from least import least

from diffpo_jax.arrays.fingerprint import fingerprint
from diffpo_jax.arrays.types import Draws, Prompts, Rollout
from diffpo_jax.config import LikelihoodConfig, LoRAConfig, MeshConfig, check
from diffpo_jax.diffusion import likelihood
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.distributed import sharding
from diffpo_jax.distributed.mesh import make_mesh
from diffpo_jax.models import quantization
from diffpo_jax.system.errors import UserError

KINDS = ("int8", "nf4")
WIDE = {"width": 128, "ff": 128, "heads": 4, "kv_heads": 2}


def blocks_of(kernel):
    """Yields every block of 64 inputs of a column, with its index."""
    for column in range(kernel.shape[1]):
        for begin in range(0, len(kernel), 64):
            yield np.s_[begin : begin + 64, column], kernel[begin : begin + 64, column]


def rounded(kernel, kind):
    """Quantizes a numpy kernel and multiplies it out."""
    few = quantization.quantize(jnp.asarray(kernel), kind)
    return np.asarray(quantization.dequantize(few, jnp.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_becomes_the_nearest_level_of_its_block(kind):
    kernel = np.random.default_rng(0).normal(size=(128, 3)).astype(np.float32)
    kernel[:64, 1] *= 100  # its own scale, which makes the rest of the column no coarser
    got = rounded(kernel, kind)
    for place, block in blocks_of(kernel):
        largest = np.abs(block).max()
        levels = np.arange(-128, 128) / 127.5 if kind == "int8" else np.asarray(quantization.NF4)
        levels = levels * largest
        nearest = levels[np.argmin(np.abs(block[:, None] - levels), axis=1)]
        # Two levels may be equally near up to rounding.
        np.testing.assert_allclose(
            np.abs(got[place] - block), np.abs(nearest - block), atol=1e-5 * largest
        )
        assert np.abs(got[place][:, None] - levels).min(axis=1).max() < 1e-5 * largest


def test_quantization_by_hand():
    kernel = np.zeros((64, 1), np.float32)
    kernel[:4, 0] = [2.0, -1.0, 0.9, 0.1]
    got = rounded(kernel, "nf4")[:, 0]
    np.testing.assert_allclose(got[:4], 2 * np.array([1.0, -0.52507305, 0.44070983, 0.07958030]))
    assert not got[4:].any()
    got = rounded(kernel, "int8")[:, 0]
    # The largest weight would be 127.5 and is clipped to 127; -1 / 2 * 127.5 = -63.75.
    np.testing.assert_allclose(got[:4], np.array([127, -64, 57, 6]) * 2 / 127.5, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_stacks_equal_their_layers_and_narrow_kernels_have_smaller_blocks(kind):
    stack = jax.random.normal(jax.random.key(1), (2, 96, 5))
    whole = quantization.quantize(stack, kind)
    assert (whole.shape, whole.kind, whole.scale.shape) == ((2, 96, 5), kind, (2, 3, 5))
    for layer in range(2):
        one = quantization.quantize(stack[layer], kind)
        np.testing.assert_array_equal(whole.values[layer], one.values)
        np.testing.assert_array_equal(whole.scale[layer], one.scale)


@pytest.mark.parametrize("platform, separate", [("gpu", True), ("cuda", True), ("tpu", False)])
def test_kernels_are_multiplied_out_separately_on_gpus(platform, separate):
    policy, _ = reference.tiny_policy(platform=platform, **WIDE)
    params = jax.eval_shape(
        lambda key: quantization.quantize_blocks(policy.init(key), "int8"), jax.random.key(0)
    )
    row = jax.ShapeDtypeStruct((1, 4), jnp.int32), jax.ShapeDtypeStruct((1, 4), jnp.bool_)
    assert ("optimization_barrier" in str(jax.make_jaxpr(policy.hidden)(params, *row))) is separate


@pytest.mark.parametrize("kind", KINDS)
def test_network_equals_that_of_rounded_kernels(kind):
    policy, params = reference.tiny_policy(**WIDE)
    few = quantization.quantize_blocks(params, kind)
    blocks = few["denoiser"]["blocks"]
    dense = {
        name: quantization.dequantize(x, jnp.float32)
        if isinstance(x, quantization.Quantized)
        else x
        for name, x in blocks.items()
    }
    assert sum(isinstance(x, quantization.Quantized) for x in blocks.values()) == 7
    made = few | {"denoiser": few["denoiser"] | {"blocks": dense}}
    tokens = jax.random.randint(jax.random.key(0), (2, 7), 0, 5)
    mask = jnp.ones((2, 7), bool).at[0, :2].set(False)
    hidden = jax.jit(policy.hidden)
    got = hidden(few, tokens, mask)
    np.testing.assert_allclose(got, hidden(made, tokens, mask), atol=1e-5)
    assert np.abs(np.asarray(got) - hidden(params, tokens, mask)).max() > 1e-4
    assert quantization.quantize_blocks(params, "") is params


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_gradient_is_equal_on_any_mesh(kind):
    lora = LoRAConfig(rank=8)
    tokens = jax.random.randint(jax.random.key(0), (8, 7), 0, 5)
    mask = jnp.ones((8, 7), bool)

    def gradient(mesh_config):
        mesh = make_mesh(mesh_config)
        rows = sharding.batch_sharding(mesh) if mesh.size > 1 else None
        policy, params = reference.tiny_policy(lora=lora, rows=rows, **WIDE)
        few = quantization.quantize_blocks(params, kind)
        few["adapter"] = policy.init_adapter(jax.random.key(1))
        few = jax.device_put(few, sharding.shardings(few, mesh))
        frozen = {name: few[name] for name in ("denoiser", "threshold")}

        def loss(adapter, frozen):
            return jnp.sum(policy.hidden(frozen | {"adapter": adapter}, tokens, mask) ** 2)

        return jax.jit(jax.grad(loss))(few["adapter"], frozen), fingerprint(frozen)

    alone, name = gradient(MeshConfig())
    split, same = gradient(MeshConfig(data=2, fsdp=2, tensor=2))
    assert name == same
    for path, x in jax.tree_util.tree_leaves_with_path(alone):
        y = split
        for key in path:
            y = y[key.key]
        np.testing.assert_allclose(y, x, atol=2e-4 * np.abs(x).max() + 1e-6)
    assert any(np.any(x) for x in jax.tree.leaves(alone))


def test_gradient_never_holds_all_kernels_multiplied_out():
    """The backward pass multiplies them out again, one block at a time."""
    sizes = WIDE | {"ff": 192, "layers": 2, "remat": True}
    policy, params = reference.tiny_policy(lora=LoRAConfig(rank=8), platform="tpu", **sizes)
    few = quantization.quantize_blocks(params, "nf4")
    adapter = policy.init_adapter(jax.random.key(1))
    prompts = Prompts(jnp.ones((2, 3), jnp.int32), jnp.ones((2, 3), bool))
    calls = jnp.array([[1, 1, 2, 3], [2, 1, 3, 3]])
    rollout = Rollout(*[None] * len(Rollout._fields))._replace(
        tokens=jnp.ones((2, 4), jnp.int32),
        commit_call=calls,
        sampled=calls > 0,
        logprob=jnp.zeros((2, 4)),
    )
    draws = Draws(jnp.array([[0, 2], [0, 1]]), jnp.zeros((2, 3), bool))
    config, settings = LikelihoodConfig(), SamplerSettings(4, 4, 1.0)

    def loss(adapter, params):
        scored = likelihood.anchored_log_prob(
            policy, params | {"adapter": adapter}, prompts, rollout, draws, config, settings
        )
        return jnp.sum(scored)

    program = str(jax.make_jaxpr(jax.grad(loss))(adapter, few))
    assert "u4[2,128,192]" in program
    assert not re.search(r"(f32|bf16|i32)\[2,128,192\]", program)


def test_bytes_per_device():
    """A kernel has 128 x 128 weights and 2 x 128 scales."""
    _, params = reference.tiny_policy(**WIDE)
    mesh = make_mesh(MeshConfig())
    for kind, bits in (("int8", 8.5), ("nf4", 4.5)):
        shapes = jax.eval_shape(lambda p, k=kind: quantization.quantize_blocks(p, k), params)
        q = {"denoiser": {"blocks": {"q": shapes["denoiser"]["blocks"]["q"]}}}
        mebibytes = sum(leaf.mib for leaf in sharding.leaves(q, mesh))
        assert mebibytes == pytest.approx(128 * 128 * bits / 8 / 2**20, abs=1e-3)


def test_training_quantized_kernels_is_refused():
    few = {"model.quantized": "nf4", "pretrain.steps": 0}
    with pytest.raises(UserError, match="Train an adapter"):
        check.check_training(least(**few))
    check.check_training(least(**few, mode="sampler"))
    check.check_training(least(**few | {"lora.rank": 8}))
    with pytest.raises(UserError, match=r"config\.model\.weights"):
        check.check_training(least(**few | {"lora.rank": 8, "pretrain.steps": 3}))
    with pytest.raises(UserError, match="int4"):
        least(**{"model.quantized": "int4"})


def test_missing_qwix_raises_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match="needs qwix: pip install -e"):
        quantization.quantize(jnp.ones((64, 1)), "nf4")
