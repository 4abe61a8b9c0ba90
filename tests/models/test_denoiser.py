"""The denoiser, against plain matrices in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.config import ModelConfig
from diffpo_jax.models import denoiser

SIZES = {"layers": 2, "kv_heads": 1, "positions": 8, "rope_theta": 50.0, "norm_eps": 0.01}
CONFIG = ModelConfig(width=16, heads=2, ff=16, **SIZES)
TOKENS = np.array([[0, 0, 3, 1, 4, 2], [4, 0, 2, 5, 1, 3]])
MASK = np.array([[False, False, True, True, True, True], [True] * 6])


@pytest.fixture(scope="module")
def model():
    policy, params = reference.tiny_policy(**SIZES)

    @jax.jit
    def forward(params, tokens, mask):
        hidden = policy.hidden(params, tokens, mask)
        return hidden, policy.logits(params, hidden)

    return forward, params


def run(model, tokens, mask):
    forward, params = model
    return jax.device_get(forward(params, jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)))


@pytest.fixture(scope="module")
def tied_model():
    policy, params = reference.tiny_policy(**SIZES, tied=True)
    assert "unembed" not in params["denoiser"]

    def forward(params, tokens, mask):
        hidden = policy.hidden(params, tokens, mask)
        return hidden, policy.logits(params, hidden)

    return jax.jit(forward), params


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("row", [0, 1])
def test_denoiser_equals_plain_matrices(model, tied_model, row, tied):
    tested, config = (tied_model if tied else model), dataclasses.replace(CONFIG, tied=tied)
    hidden, logits = run(tested, TOKENS, MASK)
    expected = reference.denoiser(tested[1], TOKENS[row], MASK[row], config)
    real = MASK[row]
    np.testing.assert_allclose(hidden[row][real], expected[0][real], atol=1e-5)
    np.testing.assert_allclose(logits[row][real], expected[1][real], atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_the_logits_of_some_tokens_are_those_of_all(tied):
    policy, params = reference.tiny_policy(**SIZES, tied=tied)
    hidden = jax.random.normal(jax.random.key(0), (2, 3, 16))
    tokens = jnp.array([[1, 4, 0], [3, 3, 2]])
    got = policy.token_logits(params, hidden, tokens)
    whole = policy.logits(params, hidden)
    for row in range(2):
        np.testing.assert_allclose(got[row], whole[row][:, tokens[row]], atol=1e-5)


def test_padded_row_equals_the_row_alone(model):
    in_batch = run(model, TOKENS, MASK)
    alone = run(model, TOKENS[:1, 2:], MASK[:1, 2:])
    for batch, single in zip(in_batch, alone):
        np.testing.assert_allclose(batch[0, 2:], single[0], atol=1e-5)


def test_tokens_at_padding_change_nothing(model):
    other = TOKENS.copy()
    other[0, :2] = [5, 4]
    for a, b in zip(run(model, TOKENS, MASK), run(model, other, MASK)):
        np.testing.assert_array_equal(a[:, 2:], b[:, 2:])


def test_row_of_only_padding_stays_finite(model):
    hidden, logits = run(model, TOKENS, np.zeros_like(MASK))
    assert np.isfinite(hidden).all()
    assert np.isfinite(logits).all()


def test_later_token_changes_an_earlier_output(model):
    other = TOKENS.copy()
    other[:, -1] = 0
    before, after = run(model, TOKENS, MASK)[0], run(model, other, MASK)[0]
    assert (np.abs(before - after)[:, 2:].max(-1) > 1e-3).all()


@pytest.mark.parametrize("kind", [{}, {"qk_norm": True, "head_dim": 6}])
def test_another_attention_and_base_are_as_if_configured(kind):
    policy, params = reference.tiny_policy(**SIZES, **kind)
    other, _ = reference.tiny_policy(**SIZES | {"rope_theta": 7.0}, **kind)
    tokens, mask = jnp.asarray(TOKENS, jnp.int32), jnp.asarray(MASK)
    under = jax.jit(policy.hidden_under)

    def run(tokens, mask, causal, theta):
        return under(params, tokens, mask, jnp.bool_(causal), jnp.float32(theta))

    for theta, made in ((50.0, policy), (7.0, other)):
        expected = made.hidden(params, tokens, mask)
        np.testing.assert_allclose(run(tokens, mask, False, theta), expected, atol=1e-5)


def test_under_a_causal_mask_each_state_is_that_of_the_row_up_to_there():
    policy, params = reference.tiny_policy(**SIZES | {"layers": 1})  # the first sees embeddings
    tokens, mask = jnp.asarray(TOKENS, jnp.int32), jnp.asarray(MASK)
    got = policy.hidden_under(params, tokens, mask, jnp.bool_(True), jnp.float32(50.0))
    for end in range(3, 7):
        begun = policy.hidden(params, tokens[:, :end], mask[:, :end])
        np.testing.assert_allclose(got[:, end - 1], begun[:, -1], atol=1e-5)


def test_learned_positions_count_real_tokens(model):
    forward, params = model
    place = params["denoiser"]["place"].at[4:].set(100.0)
    changed = (forward, {**params, "denoiser": {**params["denoiser"], "place": place}})
    before, after = run(model, TOKENS, MASK)[0], run(changed, TOKENS, MASK)[0]
    np.testing.assert_array_equal(before[0], after[0])  # 4 real tokens have positions 0 to 3
    assert np.abs(before[1] - after[1]).max() > 1e-3


def value_and_gradient(platform, **model):
    policy, params = reference.tiny_policy(platform=platform, **(SIZES | model))

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        hidden = policy.hidden(params, jnp.asarray(TOKENS, jnp.int32), jnp.asarray(MASK))
        return jnp.mean(jnp.sin(policy.logits(params, hidden)))

    return jax.device_get(loss(params))


@pytest.fixture(scope="module")
def plain():
    return value_and_gradient("gpu", scan_unroll=1)


@pytest.mark.parametrize(
    "variant",
    [
        {"platform": "cpu", "scan_unroll": 1},
        {"platform": "gpu", "scan_unroll": 2},
        {"platform": "gpu", "scan_unroll": 1, "remat": True},
    ],
    ids=["barriers", "unrolled", "remat"],
)
def test_compilation_settings_change_neither_value_nor_gradient(plain, variant):
    value, grads = value_and_gradient(**variant)
    np.testing.assert_allclose(value, plain[0], rtol=1e-6)
    gradients = jax.tree.leaves(plain[1]["denoiser"])
    assert all(np.abs(g).max() > 1e-5 for g in gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-7), grads, plain[1])


def test_only_cpu_programs_have_barriers():
    def text(platform):
        policy, params = reference.tiny_policy(platform=platform)
        tokens, mask = jnp.asarray(TOKENS, jnp.int32), jnp.asarray(MASK)
        return str(jax.make_jaxpr(policy.hidden)(params, tokens, mask))

    assert "optimization_barrier" in text("cpu")
    assert "optimization_barrier" not in text("gpu")
    assert "optimization_barrier" not in text("tpu")


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shape_of(**changes):
    return denoiser.Shape(width=8, heads=1, rope_theta=50.0, norm_eps=0.1, **changes)


def rotate(x, positions):
    table = denoiser._rotation(jnp.asarray(positions)[None], int(max(positions)) + 1, shape_of())
    return np.asarray(denoiser._rotate(jnp.asarray(x)[None, None], table))[0, 0]


def test_rotation_by_hand():
    x = normal(3, 4, 8)
    np.testing.assert_allclose(
        rotate(x, [0, 1, 5, 11]), reference.rotated(x, [0, 1, 5, 11], 50.0), atol=1e-5
    )


def test_scores_depend_on_relative_position():
    q, k = normal(4, 6, 8), normal(5, 6, 8)
    first, later = np.arange(6), np.arange(6) + 7
    scores = rotate(q, first) @ rotate(k, first).T
    np.testing.assert_allclose(scores, rotate(q, later) @ rotate(k, later).T, atol=1e-5)
    assert np.abs(scores - rotate(q, first) @ rotate(k, later).T).max() > 0.1


def test_rms_norm_by_hand():
    x, scale = normal(6, 3, 8), normal(7, 8)
    norm = denoiser.RMSNorm(shape_of())
    got = norm.apply({"params": {"scale": jnp.asarray(scale)}}, jnp.asarray(x))
    np.testing.assert_allclose(got, reference.rms_norm(x, scale, 0.1), atol=1e-6)
    # (3, 4, 0 ...) has mean square 25/8.
    x = np.zeros((1, 8), np.float32)
    x[0, :2] = [3, 4]
    got = norm.apply({"params": {"scale": jnp.ones(8)}}, jnp.asarray(x))
    np.testing.assert_allclose(got[0, :2], np.array([3, 4]) / np.sqrt(25 / 8 + 0.1), rtol=1e-6)


def test_rms_norm_averages_in_float32():
    x = jnp.asarray(normal(8, 4, 64), jnp.bfloat16)
    norm = denoiser.RMSNorm(shape_of(dtype="bfloat16"))
    got = norm.apply({"params": {"scale": jnp.ones(64)}}, x)
    assert got.dtype == jnp.bfloat16
    exact = reference.rms_norm(np.asarray(x, np.float64), 1.0, 0.1)
    np.testing.assert_array_equal(got, jnp.asarray(exact, jnp.bfloat16))  # rounded once


def test_bfloat16_gives_finite_float32_logits(model):
    policy, params = reference.tiny_policy(**(SIZES | {"dtype": "bfloat16"}))
    tokens, mask = jnp.asarray(TOKENS, jnp.int32), jnp.asarray(MASK)

    @jax.jit
    def forward(params):
        hidden = policy.hidden(params, tokens, mask)
        return hidden, policy.logits(params, hidden)

    hidden, logits = forward(params)
    assert hidden.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    full = run(model, TOKENS, MASK)[1]
    np.testing.assert_allclose(np.asarray(logits)[MASK], full[MASK], atol=0.15)


def test_parameters_have_their_dtype_and_initial_scale():
    policy, _ = reference.tiny_policy(param_dtype="bfloat16", embedding_std=3.0, width=64, vocab=40)
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(shapes["denoiser"])} == {jnp.dtype("bfloat16")}
    params = jax.jit(policy.init)(jax.random.key(0))["denoiser"]
    assert np.std(np.asarray(params["embed"], np.float32)) == pytest.approx(3.0, rel=0.1)
    fan_in = np.std(np.asarray(params["unembed"], np.float32))
    assert fan_in == pytest.approx(64**-0.5, rel=0.1)
