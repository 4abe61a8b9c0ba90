"""The model before RL: where it comes from, and how it is found again.

1. `config.init_from`: the base model of the run in that workdir;
2. or `config.model.weights`, published ones, and without either random ones;
3. from those of 2, masked-diffusion SFT where `config.pretrain.steps` is not 0.

Only 3 writes checkpoints: a run that took its base model as it was reads it there again.  With an
adapter (`config.lora`) 3 trains that, its checkpoints hold nothing else, and the base model is the
two merged.

What no training changes may be kept in few bits (`config.model.quantized`): published weights are
read that way, layer by layer; any other base model is made first and rounded then.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Params, TrainState
from diffpo_jax.config import PROJECTIONS, Config
from diffpo_jax.distributed import sharding
from diffpo_jax.models import huggingface, lora, quantization
from diffpo_jax.models.policy import Policy
from diffpo_jax.rl import optimizer, update
from diffpo_jax.run import pretrain
from diffpo_jax.run import setup as run_setup
from diffpo_jax.run.setup import Setup
from diffpo_jax.system.progress import say
from diffpo_jax.workdir import checkpoints
from diffpo_jax.workdir.layout import Workdir, config_of


def base_model(setup: Setup) -> Params:
    """The base model of a run, made if it must be.

    Raises:
      UserError: no such checkpoint or weights, or they are of another shape; pretraining failed.
    """
    config, policy, mesh = setup.config, setup.policy, setup.mesh
    say(sharding.table(shapes(policy, mesh, config.model.quantized), mesh))
    if config.init_from or not config.pretrain.steps:
        return _taken(config, policy, mesh, config.model.quantized)
    return _pretrained(setup)


def read(workdir: pathlib.Path, policy: Policy, mesh: Mesh, kind: str = "") -> Params:
    """The base model of the run in a workdir.

    Args:
      kind: what its blocks' kernels are kept as, whatever that run did: as
        `config.model.quantized`.

    Raises:
      UserError: no run, no such checkpoint or weights there, or of another shape.
    """
    paths = Workdir(workdir)
    config = config_of(paths)
    if config.init_from or not config.pretrain.steps:
        return _taken(config, policy, mesh, kind)
    say(f"base model: from {paths.base}")
    if config.lora.rank:
        wanted = _adapter_shapes(config, policy, mesh)
        adapter = checkpoints.restore_params(paths.base, wanted, config.pretrain.steps)
        whole = _merged(_untrained(config, policy, mesh, ""), adapter, config)
    else:
        wanted = shapes(policy, mesh)
        whole = checkpoints.restore_params(paths.base, wanted, config.pretrain.steps)
    return _rounded(whole, policy, mesh, kind)


def shapes(policy: Policy, mesh: Mesh, kind: str = "") -> Params:
    """The parameters as shapes with the shardings of a mesh; `kind` as in `read`."""

    def init(key: jax.Array) -> Params:
        return quantization.quantize_blocks(policy.init(key), kind)

    return sharding.abstract(jax.eval_shape(init, jax.random.key(0)), mesh)


def reference(base: Params, config: Config) -> Params:
    """A copy to compare with, of the groups given: kernels in the type they are multiplied in.

    Every product rounds its kernel to `config.model.dtype`; so rounded they take half the memory
    where that is bfloat16, and give the same numbers.
    """
    dtype = jnp.dtype(config.model.dtype)
    kernels = {"unembed", *PROJECTIONS, *(() if config.model.positions else ("embed",))}

    def copy(path: Any, x: jax.Array) -> jax.Array:
        group, name = path[0].key, path[-1].key
        rounded = group == "denoiser" and name in kernels
        return jnp.array(x, dtype if rounded else x.dtype, copy=True)

    return jax.tree_util.tree_map_with_path(copy, base)


def weights_of(config: Config) -> str:
    """The published weights that a run began from, through any runs before it; "": none."""
    return _origin(config).model.weights


def is_published(config: Config) -> bool:
    """Whether the base model is published weights as they are, with no SFT of ours."""
    first = _origin(config)
    return bool(first.model.weights) and not first.pretrain.steps


def _origin(config: Config) -> Config:
    """The configuration of the run that made the base model, through any runs before it."""
    while config.init_from:
        config = config_of(Workdir(pathlib.Path(config.init_from)))
    return config


def trained_shapes(config: Config, policy: Policy) -> Params:
    """What RL trains, and its checkpoints hold, as shapes: {"denoiser" or "adapter", ...}."""
    groups = optimizer.trained(config.mode, bool(config.lora.rank))
    key = jax.random.key(0)
    whole = jax.eval_shape(policy.init, key)
    if "adapter" in groups:
        whole["adapter"] = jax.eval_shape(policy.init_adapter, key)
    return {name: whole[name] for name in groups}


def _taken(config: Config, policy: Policy, mesh: Mesh, kind: str) -> Params:
    if config.init_from:
        return read(pathlib.Path(config.init_from), policy, mesh, kind)
    return _untrained(config, policy, mesh, kind)


def _untrained(config: Config, policy: Policy, mesh: Mesh, kind: str) -> Params:
    """Published weights, or random ones; made where they belong: no device holds all of them."""
    wanted = shapes(policy, mesh, kind)
    made = wanted if not config.model.weights else {"threshold": wanted["threshold"]}
    layout = jax.tree.map(lambda x: x.sharding, made)

    def init(key: jax.Array) -> Params:
        params = quantization.quantize_blocks(policy.init(key), kind)
        return {name: params[name] for name in made}

    params = jax.jit(init, out_shardings=layout)(rng.key_for(config.seed, "init"))
    if config.model.weights:
        directory = huggingface.locate(config.model.weights)
        say(f"base model: from {directory}")
        denoiser = huggingface.read_into(directory, wanted["denoiser"], config.model.family)
        params = {"denoiser": denoiser, **params}
    return params


def _rounded(params: Params, policy: Policy, mesh: Mesh, kind: str) -> Params:
    if not kind:
        return params
    layout = jax.tree.map(lambda x: x.sharding, shapes(policy, mesh, kind))
    rounding = functools.partial(quantization.quantize_blocks, kind=kind)
    return jax.jit(rounding, donate_argnums=0, out_shardings=layout)(params)


def _adapter_shapes(config: Config, policy: Policy, mesh: Mesh) -> Params:
    denoiser = jax.eval_shape(policy.init, jax.random.key(0))["denoiser"]
    init = functools.partial(lora.init, denoiser=denoiser, config=config.lora)
    return sharding.abstract({"adapter": jax.eval_shape(init, jax.random.key(0))}, mesh)


def _merged(base: Params, trained: Params, config: Config) -> Params:
    """The base model with an adapter merged, in the place of the one without."""
    layout = jax.tree.map(lambda x: x.sharding, base["denoiser"])
    merge = functools.partial(lora.merge, config=config.lora)
    jitted = jax.jit(merge, donate_argnums=0, out_shardings=layout)
    return base | {"denoiser": jitted(base["denoiser"], trained["adapter"])}


def _pretrained(setup: Setup) -> Params:
    config, mesh, stage = setup.config, setup.mesh, setup.config.pretrain
    policy, adapts = setup.policy, bool(config.lora.rank)
    opt = optimizer.make_pretrain_optimizer(stage)
    init = functools.partial(update.init_state, optimizer=opt)
    trained = _adapter_shapes(config, policy, mesh) if adapts else shapes(policy, mesh)
    wanted = sharding.abstract(jax.eval_shape(init, trained), mesh)
    layout = jax.tree.map(lambda x: x.sharding, wanted)
    frozen = _untrained(config, policy, mesh, "") if adapts else {}

    def fresh() -> TrainState:
        if adapts:
            make = jax.jit(policy.init_adapter, out_shardings=layout.params["adapter"])
            params = {"adapter": make(rng.key_for(config.seed, "adapter", 1))}
        else:
            params = _untrained(config, policy, mesh, "")
        return jax.jit(init, donate_argnums=0, out_shardings=layout)(params)

    data = run_setup.iterator(setup, stage.batch, pretrain.STAGE)
    with checkpoints.Checkpoints(setup.workdir.base, config.checkpoint, stage.steps) as saved:
        where: tuple[Any, ...] = (data, pretrain.STAGE, stage.steps)
        start, state, _ = run_setup.resume(setup, saved, wanted, fresh, *where)
        step = jax.jit(
            pretrain.make_step(policy, opt, stage),
            donate_argnums=0,
            out_shardings=(layout, sharding.replicated(mesh)),
        )
        state = pretrain.run(
            step,
            state,
            frozen,
            data,
            saved,
            setup.writer,
            stage,
            mesh,
            seed=config.seed,
            start=start,
            log_every=config.logging.every,
        )
    return _merged(frozen, state.params, config) if adapts else state.params
