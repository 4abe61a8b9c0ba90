"""Optimisers: one for the denoiser, and one with a much higher rate for the threshold head."""

import optax

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import HeadUpdateConfig, OptimizerConfig, PretrainConfig
from diffpo_jax.rl import update_rules

# The groups of parameters that each mode trains; the others are frozen.
TRAINED = {
    "model": ("denoiser",),
    "sampler": ("threshold",),
    "joint": ("denoiser", "threshold"),
}


def trained_groups(mode: str, adapts: bool, rule: str) -> tuple[str, ...]:
    """The groups of parameters that RL trains.

    Args:
      adapts: whether an adapter (LoRA) is trained in place of the denoiser.
      rule: the commit rule; "state" has a head of its own.
    """
    own = {"denoiser": "adapter"} if adapts else {}
    if rule == "state":
        own["threshold"] = "state_head"
    return tuple(own.get(name, name) for name in TRAINED[mode])


def make_optimizer(
    config: OptimizerConfig, groups: tuple[str, ...], updates: int
) -> optax.GradientTransformation:
    """The optimiser `config.kind` for the denoiser or its adapter, Adam for the head.

    Each has its own rate and gradient clip: with one rate for both, the model sharpens faster than
    the threshold can follow.

    Args:
      groups: keys of the parameters that are optimised.
      updates: of the whole run, for a decay to 0.
    """

    def group_optimizer(name: str) -> optax.GradientTransformation:
        head = name == "threshold"
        rate = config.threshold_lr if head else config.denoiser_lr
        schedule = _schedule(rate, config.warmup, config.decay, updates)
        if head:
            rule = optax.adam(schedule, config.beta1, config.beta2)
        else:
            rule = update_rules.make_rule(config, schedule)
        return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), rule)

    def labels(params: Params) -> dict[str, str]:
        return {name: name for name in params}

    return optax.partition({name: group_optimizer(name) for name in groups}, labels)


def make_head_optimizer(
    config: HeadUpdateConfig, decay: str, updates: int
) -> optax.GradientTransformation:
    """AdamW for the head by state, which takes many small steps on each batch of rollouts.

    Args:
      decay, updates: as for the other groups.
    """
    schedule = _schedule(config.learning_rate, 0, decay, updates)
    rule = optax.adamw(schedule, b2=0.98, weight_decay=config.weight_decay)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), rule)


def make_pretrain_optimizer(config: PretrainConfig) -> optax.GradientTransformation:
    """The optimiser `config.kind` for the denoiser or its adapter; the head stays as it is."""
    schedule = _schedule(config.learning_rate, config.warmup, config.decay, config.steps)
    rule = update_rules.make_rule(config, schedule)
    whole = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), rule)

    def labels(params: Params) -> dict[str, str]:
        return {name: "frozen" if name == "threshold" else "trained" for name in params}

    return optax.partition({"trained": whole, "frozen": optax.set_to_zero()}, labels)


def _schedule(rate: float, warmup: int, decay: str, updates: int) -> optax.Schedule:
    """Linear warm-up, then a constant rate or a linear decay to 0 after the last update."""
    up = optax.linear_schedule(rate / max(warmup, 1), rate, warmup)
    if decay == "none":
        return up
    down = optax.linear_schedule(rate, 0.0, max(updates - warmup, 1))
    return optax.join_schedules([up, down], [warmup])
