"""Optimisers by name: steps by hand, what Muon leaves out, restarts, and meshes."""

import functools

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from diffpo_jax.arrays.paths import path_name
from diffpo_jax.arrays.types import TrainState
from diffpo_jax.config import (
    OPTIMIZERS,
    CheckpointConfig,
    LoRAConfig,
    MeshConfig,
    OptimizerConfig,
    PretrainConfig,
)
from diffpo_jax.distributed import sharding
from diffpo_jax.distributed.mesh import make_mesh
from diffpo_jax.models import lora
from diffpo_jax.rl import schedule_free, update
from diffpo_jax.rl.optimizer import make_optimizer, make_pretrain_optimizer
from diffpo_jax.rl.update_rules import muon_labels
from diffpo_jax.workdir.checkpoints import Checkpoints, restore_params

RATE, DECAY, STEPS = 0.01, 0.5, 3
START = np.array([1.0, -2.0, 0.5])
GRADIENTS = np.array([[0.3, -0.1, 0.2], [-0.2, 0.4, 0.1], [0.1, 0.1, -0.3]])


def config_of(kind, **changes):
    plain = {"denoiser_lr": RATE, "warmup": 0, "weight_decay": DECAY, "max_grad_norm": 1e9}
    return OptimizerConfig(kind=kind, **plain | changes)


def run(config, start=START, gradients=GRADIENTS):
    """The state after steps with these gradients, of a denoiser with one array."""
    groups = ("denoiser", "threshold")
    optimizer = make_optimizer(config, groups, STEPS)
    head = {"b": jnp.ones(2)}
    state = update.init_state({"denoiser": {"w": jnp.asarray(start)}, "threshold": head}, optimizer)
    for gradient in gradients:
        grads = {"denoiser": {"w": jnp.asarray(gradient)}, "threshold": head}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(state.step + 1, params, opt_state)
    return state


def test_three_steps_of_lion_by_hand():
    x, m = START.copy(), np.zeros(3)
    for g in GRADIENTS:
        x -= RATE * (np.sign(0.8 * m + 0.2 * g) + DECAY * x)
        m = 0.7 * m + 0.3 * g
    state = run(config_of("lion", beta1=0.8, beta2=0.7))
    np.testing.assert_allclose(state.params["denoiser"]["w"], x, rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_three_steps_of_sgd_by_hand(momentum, nesterov):
    x, m = START.copy(), np.zeros(3)
    for g in GRADIENTS:
        m = momentum * m + g
        x -= RATE * ((g + momentum * m if nesterov else m) + DECAY * x)
    state = run(config_of("sgd", momentum=momentum, nesterov=nesterov))
    np.testing.assert_allclose(state.params["denoiser"]["w"], x, rtol=1e-6)


def test_three_steps_of_schedule_free_adamw_by_hand():
    """With a constant rate x is the plain mean of z; y is where the weight decay applies too."""
    x, y, z, v = START.copy(), START.copy(), START.copy(), np.zeros(3)
    for i, g in enumerate(GRADIENTS, start=1):
        v = 0.7 * v + 0.3 * g**2
        z -= RATE * (g / (np.sqrt(v / (1 - 0.7**i)) + 1e-8) + DECAY * y)
        x += (z - x) / i
        y = 0.8 * x + 0.2 * z
    state = run(config_of("schedule_free_adamw", beta1=0.8, beta2=0.7))
    np.testing.assert_allclose(state.params["denoiser"]["w"], x, rtol=1e-6)
    at = schedule_free.gradient_params(state)
    np.testing.assert_allclose(at["denoiser"]["w"], y, rtol=1e-6)
    assert np.abs(x - y).min() > 1e-4
    np.testing.assert_array_equal(at["threshold"]["b"], state.params["threshold"]["b"])


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS.keys() - {"schedule_free_adamw"}))
def test_other_optimisers_take_gradients_at_the_parameters(kind):
    state = run(config_of(kind))
    assert schedule_free.gradient_params(state) == state.params


def orthogonal(m):
    """Five Newton-Schulz steps with Jordan's coefficients, on one matrix in float64."""
    m = m / np.linalg.norm(m)
    for _ in range(5):
        s = m @ m.T
        m = 3.4445 * m + (-4.7750 * s + 2.0315 * s @ s) @ m
    return m


@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 4, 6)])
def test_two_steps_of_muon_by_hand_layer_by_layer(shape):
    rng = np.random.default_rng(0)
    start, *gradients = rng.normal(size=(3, *shape))
    gradients[0][1] *= 100  # so that a norm over both layers would show
    expected = start.copy()
    for layer in range(2):
        x, m = expected[layer], np.zeros(shape[1:])
        for i, g in enumerate((g[layer] for g in gradients), start=1):
            m = 0.8 * m + 0.2 * g
            # Both means are corrected for their start at 0.
            mixed = 0.8 * m / (1 - 0.8 ** (i + 1)) + 0.2 * g / (1 - 0.8**i)
            x -= RATE * (0.2 * np.sqrt(6) * orthogonal(mixed) + DECAY * x)
    optimizer = make_optimizer(config_of("muon", momentum=0.8), ("denoiser",), STEPS)
    params = {"denoiser": {"blocks": {"q": jnp.asarray(start, jnp.float32)}}}
    state = optimizer.init(params)
    for g in gradients:
        grads = {"denoiser": {"blocks": {"q": jnp.asarray(g, jnp.float32)}}}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["denoiser"]["blocks"]["q"], expected, rtol=1e-3, atol=1e-5)


def tree(targets=("q", "down")):
    """A denoiser, an adapter and a head, as RL and SFT would train them."""
    _, params = reference.tiny_policy(layers=2, positions=7, width=8, heads=2, ff=16)
    adapter = lora.init(jax.random.key(0), params["denoiser"], LoRAConfig(rank=4, targets=targets))
    return params | {"adapter": adapter}


def test_muon_takes_the_kernels_of_blocks_and_of_adapters():
    labels = muon_labels(tree())
    flat = {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(labels)}
    taken = {name for name, label in flat.items() if label == "muon"}
    kernels = {f"denoiser/blocks/{name}" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert taken == kernels | {f"adapter/blocks/{k}_{ab}" for k in ("q", "down") for ab in "ab"}
    assert {"denoiser/embed", "denoiser/norm/scale", "denoiser/blocks/ff_norm/scale"} < flat.keys()


def test_what_muon_leaves_out_is_adamws():
    params = {"denoiser": tree()["denoiser"]}
    grads = jax.tree.map(
        lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params
    )
    results = {}
    for kind in ("adamw", "muon"):
        optimizer = make_optimizer(config_of(kind), ("denoiser",), STEPS)
        results[kind], _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)

    def compare(label, ours, adamw):
        assert bool(jnp.allclose(ours, adamw, rtol=1e-6)) == (label == "adamw")

    jax.tree.map(compare, muon_labels(params), results["muon"], results["adamw"])


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_pretraining_has_the_same_optimisers(kind):
    """Two steps equal those of RL, with AdamW's usual second decay, or Lion's."""
    config = PretrainConfig(
        kind=kind, learning_rate=RATE, warmup=0, weight_decay=DECAY, max_grad_norm=1e9
    )
    ours = make_pretrain_optimizer(config)
    rng = np.random.default_rng(0)
    own = {"blocks": {"q": jnp.asarray(rng.normal(size=(2, 4, 3)))}, "embed": jnp.ones((3, 4))}
    params = {"denoiser": own, "threshold": {"b": jnp.ones(2)}}
    grads = jax.tree.map(jnp.cos, params)
    rl = config_of(kind, beta2=0.99 if kind == "lion" else 0.999)
    theirs, trained = make_optimizer(rl, ("denoiser",), STEPS), {"denoiser": own}
    a, b = ours.init(params), theirs.init(trained)
    for _ in range(2):
        got, a = ours.update(grads, a, params)
        expected, b = theirs.update({"denoiser": grads["denoiser"]}, b, trained)
    np.testing.assert_array_equal(got["threshold"]["b"], [0, 0])
    jax.tree.map(np.testing.assert_array_equal, got["denoiser"], expected["denoiser"])


@functools.cache
def taken(kind, shape=(1, 1, 1)):
    """The states after 0, 1 ... STEPS steps on a mesh, their shapes there, and the step."""
    mesh, params = make_mesh(MeshConfig(*shape)), tree()
    optimizer = make_optimizer(config_of(kind, threshold_lr=0.01), tuple(params), STEPS)
    init = functools.partial(update.init_state, optimizer=optimizer)
    shapes = sharding.abstract(jax.eval_shape(init, params), mesh)

    def step(state):
        # The gradient of a loss that depends on the step, as if its batch did.
        at = schedule_free.gradient_params(state)
        grads = jax.tree.map(lambda x: jnp.cos(3 * x + state.step), at)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state)

    placed = jax.tree.map(lambda x: x.sharding, shapes)
    step = jax.jit(step, donate_argnums=0, out_shardings=placed)
    copies = jax.device_put(jax.tree.map(np.array, params), placed.params, may_alias=False)
    state = jax.jit(init, donate_argnums=0, out_shardings=placed)(copies)
    states = [jax.device_get(state)]
    for _ in range(STEPS):
        state = step(state)
        states.append(jax.device_get(state))
    return states, shapes, step


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_restored_state_goes_on_as_if_nothing_had_happened(kind, tmp_path):
    states, shapes, step = taken(kind)
    with Checkpoints(tmp_path, CheckpointConfig(every=1), last_step=STEPS) as saved:
        placed = jax.device_put(states[1], jax.tree.map(lambda x: x.sharding, shapes))
        saved.save(1, placed, data(), {})
    with Checkpoints(tmp_path, CheckpointConfig(every=1), last_step=STEPS) as saved:
        state, _ = saved.restore(1, shapes, data())
    for _ in range(STEPS - 1):
        state = step(state)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), states[-1])
    # Whoever reads the parameters alone gets those that are evaluated.
    read = restore_params(tmp_path, shapes.params)
    jax.tree.map(np.testing.assert_array_equal, read, states[1].params)


def data():
    return iter(grain.MapDataset.range(3).to_iter_dataset())


# Muon multiplies what is small in a gradient up to 3.4445^5 = 500 times, and rounding with it.
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_steps_on_eight_devices_equal_those_on_one(kind):
    (*_, got), (first, *_, expected) = taken(kind, (2, 2, 2))[0], taken(kind)[0]
    tolerance = 1e-5 if kind == "muon" else 1e-6
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), expected.params, first.params)
    assert min(jax.tree.leaves(moved)) > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=0),
        got.params,
        expected.params,
    )
