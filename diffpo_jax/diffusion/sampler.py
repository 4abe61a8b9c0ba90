"""Builds the sampler's program: a jittable generate(params, prompts, dial, keys) -> Rollout."""

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
    """What a sampler's program is compiled with.

    Args:
      temperature: of the tokens; rollouts and evaluations differ in it.
      ends: the end-of-text ids, the first of which is filled in after an end.
      scope: of drawn thresholds, config.threshold.scope.
    """
    return SamplerSettings(
        length=config.length,
        block_length=config.block_length,
        temperature=temperature,
        max_calls=config.max_calls or 0,
        rule=Rule(config.rule, config.fallback),
        ranking=config.ranking,
        end=EndOfText(ends, ends[0], config.stop_at_end, config.suppress_end),
        cache=CacheSettings(config.cache, config.cache_refresh or 0, config.cache_rows or 0),
        scope=scope,
        chunk=config.vocabulary_chunk or 0,
    )


def make_generate(
    policy: Policy, settings: SamplerSettings, *, threshold: str, slots: int | None = None
) -> Generate:
    """generate(params, prompts, dial, keys): one program, whatever the dial.

    Args:
      threshold: "fixed": γ, or the number of another rule, is the dial; "drawn": γ from the
        head's distribution, the dial is not read; "median": γ = dial · exp(μ(c)).
      slots: rows in flight of the continuous batch; None: one static batch.
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
            return continuous_batch.stream(policy, params, prompts, gamma, keys, settings, slots)
        return unmask.unmask(policy, params, prompts, gamma, keys, settings)

    return generate
