"""Kinds of attention: plain attention against a slow reference, kernels against plain attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.config import Config, MeshConfig, ModelConfig, ThresholdConfig, convert
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.distributed import sharding
from diffpo_jax.models import attention, families
from diffpo_jax.system.errors import UserError

GPU = pytest.mark.skipif(jax.devices()[0].platform != "gpu", reason="cuDNN needs a GPU")


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def arrays(rows=3, heads=4, kv_heads=2, queries=128, keys=256, head=128):
    """q, k, v and a mask of rows without padding, with some, and with a single key."""
    shapes = (heads, queries, head), (kv_heads, keys, head), (kv_heads, keys, head)
    q, k, v = (normal(i, rows, *shape) for i, shape in enumerate(shapes))
    begins = jnp.array([0, 7, keys - 1])[jnp.arange(rows) % 3]
    return q, k, v, jnp.arange(keys)[None, :] >= begins[:, None]


def test_grouped_keys_equal_repeated_keys():
    q, k, v, _ = arrays(rows=2, queries=5, keys=5, head=4)
    mask = np.array([[True] * 5, [False, True, True, False, True]])
    got = attention.plain(q, k, v, jnp.asarray(mask))
    for row in range(2):
        for head, kv_head in enumerate([0, 0, 1, 1]):
            expected = reference.attend(q[row, head], k[row, kv_head], v[row, kv_head], mask[row])
            np.testing.assert_allclose(got[row, head], expected, atol=1e-6)


@pytest.mark.parametrize("queries", [300, 5])
def test_attention_by_head_equals_plain_attention(monkeypatch, queries):
    q, k, v, mask = arrays(rows=3, queries=queries, keys=300, head=4)

    def value_and_gradient(kind):
        def total(q, k, v):
            out = attention.attend(kind, q, k, v, mask)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)

    expected = value_and_gradient("plain")
    used = []
    plain = attention.plain
    monkeypatch.setattr(attention, "plain", lambda *x: used.append(x[0].shape[0]) or plain(*x))
    got = value_and_gradient("by_head")
    assert set(used) == {1}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), got, expected)


def test_short_or_shared_rows_are_not_taken_by_head(monkeypatch):
    monkeypatch.setattr(attention, "by_head", None)
    attention.attend("by_head", *arrays(rows=3, queries=5, keys=255, head=4))
    attention.attend("by_head", *arrays(rows=8, queries=5, keys=256, head=4), on_eight())


@pytest.mark.parametrize(
    "changes, supported",
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
def test_shapes_that_cudnn_supports(changes, supported):
    sizes = {"queries": 16, "keys": 48, "head": 64, "dtype": jnp.bfloat16} | changes
    q = jnp.zeros((1, 2, sizes["queries"], sizes["head"]), sizes["dtype"])
    k = jnp.zeros((1, 2, sizes["keys"], sizes["head"]), sizes["dtype"])
    assert attention.supports_cudnn(q, k, None) is supported
    assert attention.supports_cudnn(q, k, on_eight()) is False  # one row over 4 devices
    if supported:
        assert attention.supports_cudnn(*(jnp.tile(x, (4, 1, 1, 1)) for x in (q, k)), on_eight())


@pytest.mark.parametrize(
    "changes, one, eight",
    [
        ({"rows": 4}, True, True),
        ({"rows": 3}, True, False),  # data x fsdp is 4
        ({"rows": 4, "heads": 3, "kv_heads": 1}, True, False),  # tensor is 2
        ({"rows": 4, "kv_heads": 1}, True, False),
        ({"rows": 4, "queries": 64}, False, False),
        ({"rows": 4, "keys": 320}, False, False),
        ({"rows": 4, "head": 64}, False, False),
    ],
)
def test_shapes_that_splash_supports(changes, one, eight):
    q, k, *_ = arrays(**changes)
    assert attention.supports_splash(q, k, None) is one
    assert attention.supports_splash(q, k, on_eight()) is eight


def on_eight():
    return sharding.batch_sharding(mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))


@pytest.mark.parametrize(
    "name, platform, kind",
    [
        ("auto", "cpu", "by_head"),
        ("auto", "tpu", "plain"),
        ("auto", "gpu", "plain"),  # a GPU without cuDNN's kernel
        ("auto", "cuda", "cudnn"),
        ("plain", "cuda", "plain"),
        ("cudnn", "cuda", "cudnn"),
        ("splash", "tpu", "splash"),
    ],
)
def test_platform_chooses_the_attention(monkeypatch, name, platform, kind):
    shapes = []
    monkeypatch.setattr(families, "Denoiser", lambda shape, **_: shapes.append(shape))
    model = ModelConfig(attention=name)
    families.make_policy(model, ThresholdConfig(), vocab=5, mask_id=4, platform=platform)
    assert {shape.attention for shape in shapes} == {kind}


@pytest.mark.parametrize("name, platform", [("cudnn", "cpu"), ("cudnn", "gpu"), ("splash", "cuda")])
def test_kernel_of_another_platform_is_refused(name, platform):
    model = ModelConfig(attention=name)
    message = rf"'{name}' needs .*PUs.*, but this machine has {platform} devices"
    with pytest.raises(UserError, match=message):
        families.make_policy(model, ThresholdConfig(), vocab=5, mask_id=4, platform=platform)


def test_unknown_attention_is_refused():
    values = convert.as_config_dict(Config())
    values.model.attention = "flash"
    with pytest.raises(UserError, match=r"config\.model\.attention='flash'"):
        convert.from_config_dict(values)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        (
            "cudnn",
            {"model.dtype": "float32"},
            "has float32, .* heads of 128 .* 128 tokens",
        ),
        ("cudnn", {"model.heads": 1}, ".*heads of 256"),
        ("cudnn", {"sampler.prompt_length": 63}, ".*127 tokens"),
        ("splash", {"model.heads": 4, "model.kv_heads": 2}, ".*heads of 64"),
        ("splash", {"sampler.prompt_length": 32}, ".*96 tokens"),
        ("splash", {"mesh.tensor": 2}, ".*2 and 1 heads of 128 over 2"),
        ("splash", {"model.heads": 4, "model.kv_heads": 2, "model.weights": "theirs"}, None),
        ("cudnn", {}, None),
        ("splash", {"model.dtype": "float32"}, None),
    ],
)
def test_named_kernel_must_support_the_rows(name, changes, message):
    values = convert.as_config_dict(Config())
    values.model.width, values.model.heads, values.model.kv_heads = 256, 2, 1
    values.model.dtype, values.model.attention = "bfloat16", name
    values.sampler.prompt_length = values.sampler.length = 64
    for field, value in changes.items():
        values[field.split(".")[0]][field.split(".")[1]] = value
    if message is None:
        assert convert.from_config_dict(values).model.attention == name
        return
    with pytest.raises(UserError, match=f"attention='{name}' needs .* {message}"):
        convert.from_config_dict(values)


@pytest.mark.parametrize("kind", ["cudnn", "splash"])
def test_supported_shapes_use_the_kernel(monkeypatch, kind):
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in arrays(rows=4)[:3]]
    mask, rows, given = jnp.ones((4, 256), bool), on_eight(), []
    monkeypatch.setattr(attention, kind, lambda *x: given.append(x) or x[0])
    attention.attend(kind, *inputs, mask, rows)
    ((*arguments, sharding_of_rows),) = given
    assert all(a is b for a, b in zip(arguments, (*inputs, mask), strict=True))
    assert sharding_of_rows is rows


def test_other_shapes_use_plain_attention():
    inputs = arrays(queries=5, keys=5, head=4)
    expected = attention.plain(*inputs)
    for kind in ("cudnn", "splash"):
        np.testing.assert_array_equal(attention.attend(kind, *inputs), expected)


def loss(attend, weight, mask, q, k, v):
    return jnp.sum(weight * attend(q, k, v, mask).astype(jnp.float32))


def assert_same(attend, inputs, tolerance):
    """Compares values and gradients with plain attention, and checks that padding is ignored."""
    q, k, v, mask = inputs
    wide = [x.astype(jnp.float32) for x in (q, k, v)]
    expected = attention.plain(*wide, mask)
    got = attend(*inputs)
    assert got.shape == q.shape and got.dtype == q.dtype
    np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=tolerance)
    # Keys and values at padding change nothing at all.
    real = mask[:, None, :, None]
    other = attend(q, jnp.where(real, k, 9.0), jnp.where(real, v, 9.0), mask)
    np.testing.assert_array_equal(got, other)
    weight = normal(3, *q.shape)
    gradients = jax.grad(functools.partial(loss, attend, weight, mask), (0, 1, 2))(q, k, v)
    exact = jax.grad(functools.partial(loss, attention.plain, weight, mask), (0, 1, 2))(*wide)
    for a, b in zip(gradients, exact):
        limit = tolerance * float(jnp.abs(b).max())
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=limit)


@pytest.mark.slow
@pytest.mark.parametrize("queries", [128, 256])
def test_splash_equals_plain_attention(queries):
    assert_same(
        jax.jit(functools.partial(attention.splash, interpret=True)),
        arrays(queries=queries),
        5e-5,
    )


@pytest.mark.slow
def test_splash_equals_plain_attention_on_eight_devices():
    rows = on_eight()
    attend = jax.jit(functools.partial(attention.splash, rows=rows, interpret=True))
    assert_same(attend, [jax.device_put(x, rows) for x in arrays(rows=4)], 5e-5)


@GPU
@pytest.mark.parametrize("queries", [48, 16])
def test_cudnn_equals_plain_attention(queries):
    *inputs, mask = arrays(queries=queries, keys=48, head=64)
    inputs = [x.astype(jnp.bfloat16) for x in inputs]
    assert_same(jax.jit(attention.cudnn), (*inputs, mask), 2e-2)
