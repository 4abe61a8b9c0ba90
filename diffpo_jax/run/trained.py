"""What a stage trains, what it leaves frozen, and what it compares with: shapes and shardings.

Runs and plans both build on this module, so that a plan has the arrays of the run.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Params, TrainState
from diffpo_jax.config import PROJECTIONS, Config
from diffpo_jax.distributed import sharding
from diffpo_jax.models import lora, quantization
from diffpo_jax.models.policy import Policy
from diffpo_jax.rl import optimizer as optimizers
from diffpo_jax.rl import update


class Trained(NamedTuple):
    """What a stage trains."""

    # Keys of the parameters: "denoiser" or "adapter", "threshold" or "state_head"
    groups: tuple[str, ...]
    optimizer: optax.GradientTransformation | update.HeadAndOthers
    state: TrainState  # shapes with shardings


def for_rl(config: Config, policy: Policy, mesh: Mesh) -> Trained:
    """What RL trains; its checkpoints hold nothing else."""
    groups, rl, optimizer = groups_of(config), config.rl, None
    if others := tuple(name for name in groups if name != update.HEAD):
        optimizer = optimizers.make_optimizer(
            rl.optimizer, others, len(config.denoiser_steps) * rl.inner_updates
        )
    if update.HEAD in groups:
        updates = rl.steps * rl.head.minibatches
        head = optimizers.make_head_optimizer(rl.head, rl.optimizer.decay, updates)
        optimizer = update.HeadAndOthers(head, optimizer)
    params = rl_params(config, policy, mesh)
    return Trained(groups, optimizer, _state_shapes(params, optimizer, mesh))


def for_pretraining(config: Config, policy: Policy, mesh: Mesh) -> Trained:
    """What SFT trains: the adapter if there is one, otherwise all parameters but the head.

    The head is part of the state then, as every checkpoint of a base model has it.
    """
    optimizer = optimizers.make_pretrain_optimizer(config.pretrain)
    params = adapter_shapes(config, policy, mesh) if config.lora.rank else shapes(policy, mesh)
    return Trained(tuple(params), optimizer, _state_shapes(params, optimizer, mesh))


def shapes(policy: Policy, mesh: Mesh, quantized: str | None = None) -> Params:
    """All parameters as shapes with the shardings of a mesh.

    Args:
      quantized: the type of the blocks' kernels, as `config.model.quantized`.
    """

    def init(key: jax.Array) -> Params:
        return quantization.quantize_blocks(policy.init(key), quantized)

    return sharding.abstract(jax.eval_shape(init, jax.random.key(0)), mesh)


def adapter_shapes(config: Config, policy: Policy, mesh: Mesh) -> Params:
    """{"adapter": ...} as shapes with shardings, of the adapter that `config.lora` describes."""
    denoiser = jax.eval_shape(policy.init, jax.random.key(0))["denoiser"]
    init = functools.partial(lora.init, denoiser=denoiser, config=config.lora)
    return sharding.abstract({"adapter": jax.eval_shape(init, jax.random.key(0))}, mesh)


def rl_params(config: Config, policy: Policy, mesh: Mesh) -> Params:
    """The parameters that RL trains, as shapes with shardings."""
    params = shapes(policy, mesh)
    if config.lora.rank:
        params |= adapter_shapes(config, policy, mesh)
    groups = groups_of(config)
    if update.HEAD in groups:
        head = jax.eval_shape(policy.init_state_head, jax.random.key(0))
        params |= sharding.abstract({update.HEAD: head}, mesh)
    return {name: params[name] for name in groups}


def groups_of(config: Config) -> tuple[str, ...]:
    """The groups of parameters that RL trains."""
    adapts = bool(config.lora.rank)
    return optimizers.trained_groups(config.mode, adapts, config.sampler.rule)


def split(params: Params, groups: tuple[str, ...]) -> tuple[Params, Params]:
    """Splits parameters into those of the trained groups and the frozen ones."""
    trained = {name: params[name] for name in params if name in groups}
    return trained, {name: params[name] for name in params if name not in groups}


def new_adapter(policy: Policy, shapes: Params, seed: int, stage: int) -> Params:
    """A new adapter with the shardings of these shapes; `stage` is 0 for RL and 1 for SFT."""
    make = jax.jit(policy.init_adapter, out_shardings=shardings(shapes))
    return make(rng.key_for(seed, "adapter", stage))


def new_state_head(policy: Policy, shapes: Params, seed: int) -> Params:
    """A new head by state with the shardings of these shapes."""
    make = jax.jit(policy.init_state_head, out_shardings=shardings(shapes))
    return make(rng.key_for(seed, "state_head"))


def new_state(params: Params, trained: Trained) -> TrainState:
    """The state at step 0; `params` are donated."""
    init = functools.partial(update.init_state, optimizer=trained.optimizer)
    return jax.jit(init, donate_argnums=0, out_shardings=shardings(trained.state))(params)


def reference(params: Params, config: Config) -> Params:
    """A copy for the KL, with kernels cast to `config.model.dtype`.

    Every product rounds its kernel to `config.model.dtype`.  Kernels rounded to bfloat16 beforehand
    take half the memory and give the same numbers.
    """
    dtype = jnp.dtype(config.model.dtype)
    kernels = {"unembed", *PROJECTIONS, *(() if config.model.positions else ("embed",))}

    def copy(path: Any, x: jax.Array) -> jax.Array:
        group, name = path[0].key, path[-1].key
        rounded = group == "denoiser" and name in kernels
        return jnp.array(x, dtype if rounded else x.dtype, copy=True)

    return jax.tree_util.tree_map_with_path(copy, params)


def reference_shapes(params: Params, config: Config, mesh: Mesh) -> Params:
    """`reference` of shapes: shapes with shardings."""
    copy = functools.partial(reference, config=config)
    return sharding.abstract(jax.eval_shape(copy, params), mesh)


def shardings(tree: Any) -> Any:
    """The sharding of every array or shape in a tree."""
    return jax.tree.map(lambda x: x.sharding, tree)


def _state_shapes(
    params: Params, optimizer: optax.GradientTransformation | update.HeadAndOthers, mesh: Mesh
) -> TrainState:
    init = functools.partial(update.init_state, optimizer=optimizer)
    return sharding.abstract(jax.eval_shape(init, params), mesh)
