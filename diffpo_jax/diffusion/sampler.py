"""Builds the sampler's program: generate(params, prompts, dial, keys) -> Rollout, to be jitted."""

from collections.abc import Callable

from jaxtyping import Array, Float, Key

from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.config import SamplerConfig
from diffpo_jax.diffusion import continuous_batch, thresholds, unmask
from diffpo_jax.diffusion.settings import CacheSettings, EndOfText, Rule, SamplerSettings
from diffpo_jax.models.policy import Policy

Generate = Callable[[Params, Prompts, Float[Array, ""], Key[Array, "B"]], Rollout]


def make_settings(
    config: SamplerConfig, temperature: float, ends: tuple[int, ...], scope: str = "prompt"
) -> SamplerSettings:
    """Settings of the sampler that a configuration describes.

    Args:
      temperature: T at which tokens are drawn; rollouts and evaluations differ in it.
      ends: the end-of-text ids, the first of which is filled in after an end.
      scope: config.threshold.scope, for drawn thresholds.
    """
    return SamplerSettings(
        length=config.length,
        block_length=config.block_length,
        temperature=temperature,
        max_calls=config.max_calls,
        rule=Rule(config.rule, config.fallback),
        ranking=config.ranking,
        end=EndOfText(ends, ends[0], config.stop_at_end, config.suppress_end),
        cache=CacheSettings(config.cache, config.cache_refresh, config.cache_rows),
        scope=scope,
        chunk=config.vocabulary_chunk,
    )


def make_generate(
    policy: Policy, settings: SamplerSettings, *, threshold: str, slots: int | None = None
) -> Generate:
    """Builds generate(params, prompts, dial, keys), one program for every value of the dial.

    Args:
      threshold: "fixed" takes the dial as γ, or as the number of another rule; "drawn" draws γ
        from the head's distribution and ignores the dial; "median" takes γ = dial · exp(μ(c)).
      slots: rows in flight of the continuous batch; None for one static batch.
    """
    make_threshold = {
        "fixed": thresholds.fixed,
        "drawn": lambda dial: thresholds.drawn(policy),
        "median": lambda dial: thresholds.median(policy, dial),
    }
    if threshold not in make_threshold:
        raise ValueError(f"unknown threshold: {threshold!r}")

    def generate(params, prompts, dial, keys):
        gamma = make_threshold[threshold](dial)
        if slots:
            return continuous_batch.stream(policy, params, prompts, gamma, keys, settings, slots)
        return unmask.unmask(policy, params, prompts, gamma, keys, settings)

    return generate
