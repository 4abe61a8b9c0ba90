"""Which attention a network has, and that cuDNN's gives what the plain one gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpo_jax import config_io
from diffpo_jax.config import Config, ModelConfig, ThresholdConfig
from diffpo_jax.errors import UserError
from diffpo_jax.models import denoiser, families

ON_GPU = jax.devices()[0].platform == "gpu"
GPU = pytest.mark.skipif(not ON_GPU, reason="cuDNN needs a GPU")
B, H, HK, S, DH = 3, 4, 2, 48, 64


def normal(seed, *shape, dtype=jnp.bfloat16):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(dtype)


def arrays(queries=S):
    q, k, v = normal(0, B, H, queries, DH), normal(1, B, HK, S, DH), normal(2, B, HK, S, DH)
    mask = jnp.arange(S)[None, :] >= jnp.array([[0], [7], [S - 1]])  # left-padded; one key alone
    return q, k, v, mask


@pytest.mark.parametrize(
    "changes, takes",
    [
        ({}, True),
        ({"dtype": jnp.float32}, False),
        ({"queries": 47}, False),
        ({"keys": 47}, False),
        ({"queries": 47, "keys": 47}, False),
        ({"head": 12}, False),
        ({"head": 136}, False),
        ({"head": 128}, True),
    ],
)
def test_what_the_kernel_takes(changes, takes):
    sizes = {"queries": 16, "keys": 48, "head": 64, "dtype": jnp.bfloat16} | changes
    q = jnp.zeros((1, 2, sizes["queries"], sizes["head"]), sizes["dtype"])
    k = jnp.zeros((1, 2, sizes["keys"], sizes["head"]), sizes["dtype"])
    assert denoiser.takes_flash(q, k) is takes


@pytest.mark.parametrize(
    "attention, platform, flash",
    [
        ("auto", "cpu", False),
        ("auto", "tpu", False),
        ("auto", "gpu", True),
        ("plain", "gpu", False),
        ("cudnn", "gpu", True),
    ],
)
def test_it_is_chosen_by_the_devices(monkeypatch, attention, platform, flash):
    seen = []
    monkeypatch.setattr(families, "Denoiser", lambda shape, **_: seen.append(shape))
    model = ModelConfig(attention=attention)
    families.make_policy(model, ThresholdConfig(), vocab=5, mask_id=4, platform=platform)
    assert {shape.flash for shape in seen} == {flash}


def test_cudnn_without_a_gpu_is_refused():
    with pytest.raises(
        UserError, match=r"attention='cudnn' is for GPUs, and these devices are cpu"
    ):
        model = ModelConfig(attention="cudnn")
        families.make_policy(model, ThresholdConfig(), vocab=5, mask_id=4, platform="cpu")


def test_another_name_is_refused():
    values = config_io.as_config_dict(Config())
    values.model.attention = "flash"
    with pytest.raises(UserError, match=r"config\.model\.attention='flash'"):
        config_io.from_config_dict(values)


@GPU
@pytest.mark.parametrize("queries", [S, 16])
def test_the_kernel_gives_the_same(queries):
    q, k, v, mask = arrays(queries)
    got = jax.jit(denoiser.flash_attention)(q, k, v, mask)
    exact = denoiser.attention(*(x.astype(jnp.float32) for x in (q, k, v)), mask)
    assert got.shape == q.shape and got.dtype == q.dtype
    np.testing.assert_allclose(got.astype(jnp.float32), exact, atol=2e-2)
    # What stands where there is padding changes nothing at all.
    hidden = jnp.where(mask[:, None, :, None], k, 100.0), jnp.where(mask[:, None, :, None], v, 99.0)
    np.testing.assert_array_equal(got, jax.jit(denoiser.flash_attention)(q, *hidden, mask))


@GPU
def test_its_gradient_is_the_same():
    *inputs, mask = arrays()
    weight = normal(3, B, H, S, DH, dtype=jnp.float32)

    def loss(attend, q, k, v):
        return jnp.sum(weight * attend(q, k, v, mask).astype(jnp.float32))

    got = jax.jit(jax.grad(lambda *x: loss(denoiser.flash_attention, *x), (0, 1, 2)))(*inputs)
    wide = [x.astype(jnp.float32) for x in inputs]
    exact = jax.grad(lambda *x: loss(denoiser.attention, *x), (0, 1, 2))(*wide)
    for a, b in zip(got, exact):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=2e-2 * scale)
