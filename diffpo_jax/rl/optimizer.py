"""Optimisers: one for the denoiser, one, much faster, for the threshold head."""

import optax

from diffpo_jax.config import OptimizerConfig, PretrainConfig
from diffpo_jax.types import Params

# Which parameters a mode trains.  The others receive no update and keep no optimiser state.
TRAINED = {
    "model": ("denoiser",),
    "sampler": ("threshold",),
    "joint": ("denoiser", "threshold"),
}


def make_optimizer(
    config: OptimizerConfig, mode: str, updates: int
) -> optax.GradientTransformation:
    """AdamW on the denoiser and Adam on the head, each with its rate and its own clip.

    With one rate for both the model sharpens faster than the threshold can follow.

    Args:
      updates: of the whole run, where the rates come down to 0 if they do.
    """

    def adam(rate: float, weight_decay: float) -> optax.GradientTransformation:
        schedule = _schedule(rate, config.warmup, config.decay, updates)
        return optax.chain(
            optax.clip_by_global_norm(config.max_grad_norm),
            optax.adamw(schedule, config.beta1, config.beta2, weight_decay=weight_decay),
        )

    transforms = {
        "denoiser": adam(config.denoiser_lr, config.weight_decay),
        "threshold": adam(config.threshold_lr, 0.0),
        "frozen": optax.set_to_zero(),
    }

    def labels(params: Params) -> dict[str, str]:
        return {name: name if name in TRAINED[mode] else "frozen" for name in params}

    return optax.partition(transforms, labels)


def make_pretrain_optimizer(config: PretrainConfig) -> optax.GradientTransformation:
    """AdamW on the denoiser alone, its rate warmed up and, if that is asked for, let down."""
    schedule = _schedule(config.learning_rate, config.warmup, config.decay, config.steps)
    adamw = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )

    def labels(params: Params) -> dict[str, str]:
        return {name: "trained" if name == "denoiser" else "frozen" for name in params}

    return optax.partition({"trained": adamw, "frozen": optax.set_to_zero()}, labels)


def _schedule(rate: float, warmup: int, decay: str, updates: int) -> optax.Schedule:
    up = optax.linear_schedule(rate / max(warmup, 1), rate, warmup)
    if decay == "none":
        return up
    down = optax.linear_schedule(rate, 0.0, max(updates - warmup, 1))
    return optax.join_schedules([up, down], [warmup])
