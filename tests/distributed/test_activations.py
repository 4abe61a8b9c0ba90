"""With weights split over the devices of a batch, weights are gathered and activations stay.

Plans of LLaDA-8B once found two mistakes of this kind. Without a constraint on activations every
device worked on all rows. Half of an adapter's factors lay whole on every device; once they were
split, XLA multiplied by a part of a factor at a time, in as many passes over the activations.
"""

import math
import re

import jax
import jax.numpy as jnp
import pytest
import reference

from diffpo_jax.config import LoRAConfig, MeshConfig
from diffpo_jax.distributed import sharding
from diffpo_jax.distributed.mesh import make_mesh

ROWS, LENGTH, WIDTH, VOCAB, LAYERS = 64, 32, 64, 256, 3
COLLECTIVE = re.compile(
    r" = (.*) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\("
)


def traced(mesh_config, constrained=True, rank=0):
    """The traced program of a batch's logits, and the shapes of its parameters."""
    mesh = make_mesh(mesh_config)
    rows = sharding.batch_sharding(mesh) if constrained else None
    # Unrolled: a loop's body would be counted once, by the compiler and in its text.
    shape = {"width": WIDTH, "layers": LAYERS, "heads": 4, "kv_heads": 4, "ff": 128}
    shape["scan_unroll"] = LAYERS
    lora = LoRAConfig(rank=rank)
    policy, _ = reference.tiny_policy(vocab=VOCAB, rows=rows, lora=lora, **shape)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    if rank:
        params["adapter"] = jax.eval_shape(policy.init_adapter, jax.random.key(0))
    batch = sharding.batch_sharding(mesh)
    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32, sharding=batch)
    mask = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.bool_, sharding=batch)

    def function(params, tokens, mask):
        return policy.logits(params, policy.hidden(params, tokens, mask))

    placed = sharding.abstract(params, mesh)
    return jax.jit(function, out_shardings=batch).trace(placed, tokens, mask), params


def compiled(mesh_config, **settings):
    """As `traced`, but compiled."""
    program, params = traced(mesh_config, **settings)
    program = program.lower().compile()
    assert " while(" not in program.as_text()
    return program, params


def exchanged(program):
    """The float32 numbers in the results of a program's collectives, by kind."""
    total = {}
    for shapes, kind, _ in COLLECTIVE.findall(program.as_text()):
        sizes = re.findall(r"f32\[([\d,]*)\]", shapes)
        count = sum(math.prod(int(n) for n in size.split(",") if n) for size in sizes)
        total[kind] = total.get(kind, 0) + count
    return total


@pytest.mark.parametrize("rank", [0, 8])
def test_weights_and_adapters_are_gathered_and_activations_are_not(rank):
    program, params = compiled(MeshConfig(fsdp=8), rank=rank)
    layers = sum(math.prod(x.shape) for x in jax.tree.leaves(params["denoiser"]["blocks"]))
    layers += sum(math.prod(x.shape) for x in jax.tree.leaves(params.get("adapter", {})))
    gathered = layers - LAYERS * 2 * WIDTH + WIDTH * VOCAB  # norms lie on every device
    found = exchanged(program)
    assert found.pop("all-gather") == gathered
    # Of the activations only the embeddings' look-up is exchanged, once.
    assert sum(found.values()) < ROWS * LENGTH * WIDTH


def test_activations_are_exchanged_without_the_constraint():
    """The reason for the constraint. If this fails, XLA has improved and it may be removed."""
    program, _ = compiled(MeshConfig(fsdp=8), constrained=False)
    assert exchanged(program)["all-reduce"] > 10 * ROWS * LENGTH * WIDTH


@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2)])
def test_each_device_works_on_its_own_rows(mesh):
    program, params = compiled(mesh)
    products = sum(math.prod(x.shape) for x in jax.tree.leaves(params["denoiser"]))
    products -= 7 * WIDTH + VOCAB * WIDTH  # norms, and the embedding, which is looked up
    attention = LAYERS * 2 * LENGTH * WIDTH
    expected = 2 * ROWS * LENGTH * (products + attention) / 8
    # The compiler's count has elementwise work too.
    assert program.cost_analysis()["flops"] == pytest.approx(expected, rel=0.1)


def test_no_factor_of_an_adapter_is_whole_on_every_device():
    policy, _ = reference.tiny_policy(lora=LoRAConfig(rank=8))
    adapter = {"adapter": jax.eval_shape(policy.init_adapter, jax.random.key(0))}
    shardings = jax.tree.leaves(sharding.shardings(adapter, make_mesh(MeshConfig(fsdp=8))))
    assert len(shardings) == 2 * 7
    assert not any(x.is_fully_replicated for x in shardings)


def test_factors_of_an_adapter_are_gathered_before_products():
    """By the constraints in the program: only a TPU's compiler multiplies by parts of a factor."""
    plain, adapted = (
        str(traced(MeshConfig(fsdp=8), rank=rank)[0].jaxpr).count("sharding_constraint[")
        for rank in (0, 8)
    )
    assert adapted == plain + 2 * 7
