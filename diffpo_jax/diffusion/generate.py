"""Builds the sampler's program: a jittable generate(params, prompts, dial, keys) -> Rollout."""

from collections.abc import Callable

from jaxtyping import Array, Float, Key

from diffpo_jax.diffusion import stream, thresholds, unmask
from diffpo_jax.models.policy import Policy
from diffpo_jax.types import Params, Prompts, Rollout

Generate = Callable[[Params, Prompts, Float[Array, ""], Key[Array, "B"]], Rollout]


def make_generate(
    policy: Policy, settings: unmask.SamplerSettings, *, threshold: str, slots: int = 0
) -> Generate:
    """generate(params, prompts, dial, keys): one program, whatever the dial.

    Args:
      threshold: "fixed": γ = dial; "drawn": γ from the head's distribution, the dial is not
        read; "median": γ = dial · exp(μ(c)).
      slots: rows in flight of the continuous batch; 0: one static batch.
    """
    if threshold not in ("fixed", "drawn", "median"):
        raise ValueError(f"unknown threshold: {threshold!r}")

    def generate(params, prompts, dial, keys):
        make = {
            "fixed": lambda: thresholds.fixed(dial),
            "drawn": lambda: thresholds.drawn(policy),
            "median": lambda: thresholds.median(policy, dial),
        }
        gamma = make[threshold]()
        if slots:
            return stream.stream(policy, params, prompts, gamma, keys, settings, slots)
        return unmask.unmask(policy, params, prompts, gamma, keys, settings)

    return generate
