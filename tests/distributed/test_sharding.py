import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import PartitionSpec as P

from diffpo_jax.arrays.fingerprint import fingerprint
from diffpo_jax.arrays.paths import path_name
from diffpo_jax.config import MeshConfig, OptimizerConfig
from diffpo_jax.distributed import sharding
from diffpo_jax.distributed.mesh import make_mesh
from diffpo_jax.rl import update
from diffpo_jax.rl.optimizer import make_optimizer
from diffpo_jax.system.errors import UserError

# The spec of each parameter; blocks have a leading axis of layers.
SPECS = {
    "embed": P("tensor", "fsdp"),
    "place": P(None, "fsdp"),
    "unembed": P("fsdp", "tensor"),
    "norm/scale": P(),
    "blocks/attn_norm/scale": P(),
    "blocks/ff_norm/scale": P(),
    "blocks/q": P(None, "fsdp", "tensor"),
    "blocks/k": P(None, "fsdp", "tensor"),
    "blocks/v": P(None, "fsdp", "tensor"),
    "blocks/o": P(None, "tensor", "fsdp"),
    "blocks/gate": P(None, "fsdp", "tensor"),
    "blocks/up": P(None, "fsdp", "tensor"),
    "blocks/down": P(None, "tensor", "fsdp"),
}
PARTS = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.fixture(scope="module")
def state():
    _, params = reference.tiny_policy(layers=2, positions=7)
    return update.init_state(
        params, make_optimizer(OptimizerConfig(), ("denoiser", "threshold"), 1)
    )


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(**PARTS))


def leaves(tree):
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_fingerprint_depends_on_the_values_alone(state, mesh):
    one = fingerprint(state.params)
    placed = jax.device_put(state.params, sharding.shardings(state.params, mesh))
    assert fingerprint(placed) == one
    changed = jax.tree.map(np.array, state.params)
    changed["denoiser"]["blocks"]["q"][0, 0, 0] += 1e-6
    assert fingerprint(changed) != one
    assert fingerprint({}) == ""


def test_every_parameter_has_its_spec(state, mesh):
    of_params = leaves(sharding.shardings(state.params, mesh))
    denoiser = {
        path.removeprefix("denoiser/"): x.spec
        for path, x in of_params.items()
        if path.startswith("denoiser/")
    }
    assert denoiser == SPECS
    head = {path: x.spec for path, x in of_params.items() if path.startswith("threshold/")}
    assert set(head.values()) == {P()}
    assert len(of_params) == len(denoiser) + len(head) == len(SPECS) + 4


def test_moments_have_the_specs_of_their_parameters(state, mesh):
    of_params = leaves(sharding.shardings(state.params, mesh))
    of_state = leaves(sharding.shardings(state, mesh))
    moments = {path: x for path, x in of_state.items() if re.search(r"/(mu|nu)/", path)}
    assert len(moments) == 2 * len(of_params)
    for path, x in moments.items():
        name = re.split(r"/(?:mu|nu)/", path)[1]
        assert x == of_params[name]
    rest = of_state.keys() - moments.keys() - {f"params/{path}" for path in of_params}
    assert rest
    assert all(path.endswith(("count", "step")) for path in rest)
    assert all(of_state[path].spec == P() for path in rest)


def test_factored_moments_are_replicated_and_others_follow_their_parameters(mesh):
    shapes = {"width": 128, "ff": 128, "layers": 2, "positions": 7}
    _, params = reference.tiny_policy(**shapes)
    optimizer = make_optimizer(OptimizerConfig(kind="adafactor"), ("denoiser", "threshold"), 1)
    state = jax.eval_shape(lambda p: update.init_state(p, optimizer), params)
    of_state = leaves(sharding.shardings(state, mesh))
    small = {path for path in of_state if re.search(r"/v_(row|col)/", path)}
    assert small
    assert {of_state[path].spec for path in small} == {P()}
    kept = {re.split("/v/", path)[1]: x.spec for path, x in of_state.items() if "/v/" in path}
    assert kept["denoiser/blocks/q"] == P()  # a placeholder
    assert kept["denoiser/embed"] == SPECS["embed"]  # 6 rows are too few to be factored


def test_parameters_are_split_over_the_devices(state, mesh):
    placed = leaves(jax.device_put(state.params, sharding.shardings(state.params, mesh)))
    original = leaves(state.params)
    for name, spec in SPECS.items():
        x = placed[f"denoiser/{name}"]
        parts = [PARTS[axis] if axis else 1 for axis in (*spec, *[None] * (x.ndim - len(spec)))]
        expected = tuple(size // part for size, part in zip(x.shape, parts))
        assert len(x.addressable_shards) == 8
        assert {shard.data.shape for shard in x.addressable_shards} == {expected}
        assert math.prod(parts) == len({str(shard.index) for shard in x.addressable_shards})
        np.testing.assert_array_equal(x, original[f"denoiser/{name}"])
    for path, x in placed.items():
        if path.startswith("threshold/"):
            assert x.is_fully_replicated


def test_a_batch_is_split_over_data_and_fsdp(mesh):
    rows = np.arange(24).reshape(8, 3)
    placed = sharding.place_batch({"x": rows}, mesh)["x"]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(placed, rows)
    assert placed.sharding == sharding.batch_sharding(mesh)


@pytest.mark.parametrize("path", ["params/denoiser/blocks/gamma", "denoiser/embeddings", "other"])
def test_a_path_without_a_rule_is_an_error(path, mesh):
    with pytest.raises(UserError, match=re.escape(f"no sharding rule matches {path} (4, 4)")):
        sharding.spec_for(path, (4, 4), mesh)


def test_an_axis_that_does_not_divide_is_an_error():
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    with pytest.raises(UserError, match=r"axis 0 of denoiser/embed has size 6, .* 4 devices"):
        sharding.spec_for("denoiser/embed", (6, 16), mesh)
    with pytest.raises(UserError, match=r"axis 1 of denoiser/embed has size 9, .* 2 devices"):
        sharding.spec_for("denoiser/embed", (8, 9), mesh)
    assert sharding.spec_for("denoiser/embed", (8, 16), mesh) == P("tensor", "fsdp")


def test_a_mesh_takes_the_first_devices():
    mesh = make_mesh(MeshConfig(data=2, fsdp=1, tensor=3))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "tensor": 3}
    assert mesh.devices.size == 6
    assert list(mesh.devices.flat) == jax.devices()[:6]


def test_too_many_devices_is_an_error():
    with pytest.raises(UserError, match=r"2 x 3 x 2 = 12 devices .* has 8 \(cpu\)"):
        make_mesh(MeshConfig(data=2, fsdp=3, tensor=2))


def test_the_table_lists_every_leaf_and_their_sum(mesh):
    tree = {
        "denoiser": {
            "embed": jax.ShapeDtypeStruct((1024, 1024), jnp.float32),  # 4 MiB over 4
            "place": jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16),  # 2 MiB over 2
        },
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    *rows, total = sharding.table(sharding.leaves(tree, mesh)).splitlines()
    words = [row.split() for row in rows]
    assert [row[0] for row in words] == ["denoiser/embed", "denoiser/place", "step"]
    assert [row[-1] for row in words] == ["1.000", "1.000", "0.000"]
    assert "(1024, 1024)" in rows[0]
    assert "'tensor', 'fsdp'" in rows[0]
    assert total.split()[-1] == "2.000"


def test_the_table_lists_a_whole_state(state, mesh):
    rows = sharding.table(sharding.leaves(state, mesh)).splitlines()[:-1]
    assert [row.split()[0] for row in rows] == list(leaves(state))
