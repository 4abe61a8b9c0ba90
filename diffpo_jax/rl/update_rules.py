"""Optimisers by the names that optax has for them, of the denoiser or its adapter.

For AdamW, Adafactor and Muon a rate means the same, the usual size of a parameter's change: Muon's
steps are scaled to 0.2 of the rate, as Adam's are in practice (arXiv 2502.16982), so that one rate
serves it and the AdamW of what it leaves out.  Lion changes every parameter by the whole rate, and
SGD by the rate times the gradient.  Weight decay is AdamW's for all: the rate times the parameter.
"""

import jax
import jax.numpy as jnp
import optax

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import OptimizerConfig, PretrainConfig
from diffpo_jax.rl import schedule_free

# Kernels are stacked: a matrix for each layer, which Muon takes one by one.
_MATRICES = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
_RMS = 0.2  # root mean square of Muon's steps over the rate


def make_rule(
    config: OptimizerConfig | PretrainConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimiser `config.kind`, with the fields that `config.OPTIMIZERS` lists for it."""
    if config.kind == "schedule_free_adamw":
        return schedule_free.with_average(
            optax.contrib.schedule_free_adamw(
                schedule, b1=config.beta1, b2=_beta2(config), weight_decay=config.weight_decay
            )
        )
    return optax.chain(
        *_directions(config),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )


def muon_labels(params: Params) -> Params:
    """For each parameter "muon", for the kernels of blocks and their adapters, or "adamw"."""

    def label(path: tuple[jax.tree_util.DictKey, ...], x: jax.Array) -> str:
        matrices = x.ndim == 3 and any(key.key == "blocks" for key in path)
        return "muon" if matrices else "adamw"

    return jax.tree_util.tree_map_with_path(label, params)


def _directions(
    config: OptimizerConfig | PretrainConfig,
) -> tuple[optax.GradientTransformation, ...]:
    """What comes before the weight decay and the rate."""
    dtype = jnp.dtype(config.mu_dtype)
    adam = optax.scale_by_adam(config.beta1, _beta2(config), mu_dtype=dtype)
    if config.kind == "adafactor":
        # Not optax.adafactor, where the rate is relative to the parameters' size and does not
        # scale the weight decay.
        return optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)
    if config.kind == "lion":
        return (optax.scale_by_lion(config.beta1, _beta2(config), mu_dtype=dtype),)
    if config.kind == "sgd":
        momentum = optax.trace(config.momentum, config.nesterov, accumulator_dtype=dtype)
        return (momentum if config.momentum else optax.identity(),)
    if config.kind == "muon":
        # Not optax.contrib.muon, whose Adam has Nesterov's momentum too.
        orthogonal = optax.contrib.scale_by_muon(
            beta=config.momentum,
            mu_dtype=dtype,
            nesterov=config.nesterov,
            weight_dimension_numbers=lambda kernels: jax.tree.map(lambda _: _MATRICES, kernels),
        )
        muon = optax.chain(orthogonal, optax.stateless(_to_one_size))
        return (optax.partition({"muon": muon, "adamw": adam}, muon_labels),)
    return (adam,)


def _to_one_size(updates: Params, params: Params | None) -> Params:
    """Scales orthogonal matrices [layers in out], so that the mean square does not depend on size.

    All singular values are about 1, so the mean square of a matrix is 1 / max(in, out).
    """
    return jax.tree.map(lambda x: _RMS * max(x.shape[1:]) ** 0.5 * x, updates)


def _beta2(config: OptimizerConfig | PretrainConfig) -> float:
    if config.beta2 is None:
        return 0.99 if config.kind == "lion" else 0.999
    return config.beta2
