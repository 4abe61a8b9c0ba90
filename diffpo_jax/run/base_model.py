"""The base model, from which RL starts: where it comes from, and how it is read again.

1. `config.init_from`: the base model of the run in that workdir;
2. otherwise `config.model.weights`, published weights, or random ones if that is None; those of a
   network that writes from left to right get an embedding of the mask token, which it lacks;
3. then, unless `config.pretrain.steps` is 0, SFT of the weights from step 2.

Only step 3 writes checkpoints; a run without it reads its base model from the same place again.
With an adapter (`config.lora`) step 3 trains and saves the adapter alone, and the base model is the
two merged.

Frozen kernels may be quantised (`config.model.quantized`).  Published weights are quantised while
they are read, layer by layer; any other base model is made first and quantised afterwards.
"""

import functools
import pathlib
from collections.abc import Collection

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Params
from diffpo_jax.config import Config
from diffpo_jax.models import huggingface, lora, quantization
from diffpo_jax.models.policy import Policy
from diffpo_jax.run import inputs, pretrain, trained
from diffpo_jax.run.setup import Setup
from diffpo_jax.system.progress import say
from diffpo_jax.workdir import checkpoints, layout


def make(setup: Setup) -> Params:
    """Returns the base model of a run, pretrained if need be.

    Raises:
      UserError: there is no such checkpoint or weights, or they have other shapes; pretraining
        failed.
    """
    config, policy, mesh = setup.config, setup.policy, setup.mesh
    if config.init_from or not config.pretrain.steps:
        return _without_sft(config, policy, mesh, config.model.quantized)
    if not config.lora.rank:
        return pretrain.train(setup, {}, lambda: untrained(config, policy, mesh))
    frozen = untrained(config, policy, mesh)
    shapes = trained.adapter_shapes(config, policy, mesh)

    def new_adapter() -> Params:
        return {"adapter": trained.new_adapter(policy, shapes["adapter"], config.seed, stage=1)}

    return _merge(frozen, pretrain.train(setup, frozen, new_adapter), config)


def read(workdir: pathlib.Path, policy: Policy, mesh: Mesh, quantized: str | None = None) -> Params:
    """Reads the base model of the run in a workdir.

    Args:
      quantized: the type of its blocks' kernels, as `config.model.quantized`, whatever the run's
        own was.

    Raises:
      UserError: there is no run, or no such checkpoint or weights, or they have other shapes; or
        the weights have changed.
    """
    paths = layout.Workdir(workdir)
    config = layout.read_config(paths)
    origin(config)  # a base model that came from itself would be looked for without end
    if config.lora.rank or not config.pretrain.steps:  # otherwise checkpoints hold all of it
        inputs.check_weights(paths, config)
    if config.init_from or not config.pretrain.steps:
        return _without_sft(config, policy, mesh, quantized)
    say(f"base model: from {paths.base}")
    if config.lora.rank:
        shapes = trained.adapter_shapes(config, policy, mesh)
        adapter = checkpoints.restore_params(paths.base, shapes, config.pretrain.steps)
        whole = _merge(untrained(config, policy, mesh), adapter, config)
    else:
        shapes = trained.shapes(policy, mesh)
        whole = checkpoints.restore_params(paths.base, shapes, config.pretrain.steps)
    return _quantize(whole, policy, mesh, quantized)


def restore(
    workdir: str, model: str, policy: Policy, mesh: Mesh, quantized: str | None = None
) -> Params:
    """Reads the parameters of a run's model, laid out over a mesh.

    Args:
      model: "trained" or "base".
      policy: with the run's own adapter.
      quantized: the type of kernels that RL did not train, as `config.model.quantized`.

    Raises:
      UserError: there is no run or no such checkpoint, or it has other shapes.
    """
    return restore_some(workdir, (model,), policy, mesh, quantized)[model]


def restore_some(
    workdir: str,
    models: Collection[str],
    policy: Policy,
    mesh: Mesh,
    quantized: str | None = None,
) -> dict[str, Params]:
    """Like `restore`, for several of a run's models, which share what RL did not train."""
    paths, found = layout.Workdir(pathlib.Path(workdir)), {}
    own = {}
    if "trained" in models:
        shapes = trained.rl_params(layout.read_config(paths), policy, mesh)
        own = checkpoints.restore_params(paths.rl, shapes)
    whole = {"denoiser", "threshold"} <= own.keys() or {"denoiser", "state_head"} <= own.keys()
    if whole:
        found["trained"] = own
    if "base" in models or not whole:
        base = read(paths.root, policy, mesh, quantized)
        # RL checkpoints hold what RL trained; the rest is the base model's.
        found = {"base": base, "trained": base | own} | found
    return {name: found[name] for name in models}


def untrained(config: Config, policy: Policy, mesh: Mesh, quantized: str | None = None) -> Params:
    """Published weights, or random ones, sharded from the start: no device holds all of them.

    Raises:
      UserError: there are no such weights, or they have other shapes.
    """
    shapes = trained.shapes(policy, mesh, quantized)
    random = shapes if not config.model.weights else {"threshold": shapes["threshold"]}

    def init(key: jax.Array) -> Params:
        params = quantization.quantize_blocks(policy.init(key), quantized)
        return {name: params[name] for name in random}

    key = rng.key_for(config.seed, "init")
    params = jax.jit(init, out_shardings=trained.shardings(random))(key)
    if config.model.weights:
        directory = huggingface.locate(config.model.weights)
        say(f"base model: from {directory}")
        denoiser = huggingface.read_weights(directory, shapes["denoiser"], config.model.family)
        if config.model.autoregressive:
            fill = jax.jit(
                _with_mask_row, static_argnums=1, out_shardings=denoiser["embed"].sharding
            )
            denoiser["embed"] = fill(denoiser["embed"], policy.mask_id)
        params = {"denoiser": denoiser, **params}
    return params


def _with_mask_row(embed: jax.Array, mask_id: int) -> jax.Array:
    """The embedding with the mean of all tokens before the mask token as the mask token's row."""
    mean = jnp.mean(embed[:mask_id].astype(jnp.float32), axis=0)
    return embed.at[mask_id].set(mean.astype(embed.dtype))


def weights_of(config: Config) -> str | None:
    """The published weights that a run began from, through any runs before it, if any."""
    return origin(config).model.weights


def is_published(config: Config) -> bool:
    """Whether the base model is published weights without any SFT of ours."""
    first = origin(config)
    return bool(first.model.weights) and not first.pretrain.steps


def origin(config: Config) -> Config:
    """The configuration of the run that made the base model, through any runs before it."""
    return [config, *layout.origins(config)][-1]


def _without_sft(config: Config, policy: Policy, mesh: Mesh, quantized: str | None) -> Params:
    """The base model of a run that does no SFT of its own."""
    if config.init_from:
        return read(pathlib.Path(config.init_from), policy, mesh, quantized)
    return untrained(config, policy, mesh, quantized)


def _quantize(params: Params, policy: Policy, mesh: Mesh, quantized: str | None) -> Params:
    if not quantized:
        return params
    shardings = trained.shardings(trained.shapes(policy, mesh, quantized))
    rounding = functools.partial(quantization.quantize_blocks, kind=quantized)
    return jax.jit(rounding, donate_argnums=0, out_shardings=shardings)(params)


def _merge(base: Params, own: Params, config: Config) -> Params:
    """The base model with an adapter merged into its denoiser, which is donated."""
    merge = functools.partial(lora.merge, config=config.lora)
    shardings = trained.shardings(base["denoiser"])
    jitted = jax.jit(merge, donate_argnums=0, out_shardings=shardings)
    return base | {"denoiser": jitted(base["denoiser"], own["adapter"])}
