"""Builds the sampler's program: generate(params, prompts, dial, keys) -> Rollout, to be jitted."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key

from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.config import SamplerConfig
from diffpo_jax.diffusion import continuous_batch, thresholds, unmask
from diffpo_jax.diffusion.settings import CacheSettings, EndOfText, Rule, SamplerSettings
from diffpo_jax.distributed import sharding
from diffpo_jax.models.policy import Policy

Generate = Callable[[Params, Prompts, Float[Array, ""], Key[Array, "B"]], Rollout]
# The same with the hidden states of each prompt's first call, see `unmask.first_call`.
GenerateWithHidden = Callable[..., tuple[Rollout, Float[Array, "U L D"] | None]]


def make_settings(
    config: SamplerConfig,
    temperature: float,
    ends: tuple[int, ...],
    scope: str = "prompt",
    rows_per_prompt: int = 1,
    recorded: int = 0,
) -> SamplerSettings:
    """Settings of the sampler that a configuration describes.

    Args:
      temperature: T at which tokens are drawn; rollouts and evaluations differ in it.
      ends: the end-of-text ids, the first of which is filled in after an end.
      scope: config.threshold.scope, for drawn thresholds.
      rows_per_prompt: consecutive rows with the same prompt.
      recorded: for rollouts with the head by state, which then draws: calls of each row whose
        decisions are kept; 0 to take the most probable number at every call and to keep nothing.
    """
    return SamplerSettings(
        length=config.length,
        block_length=config.block_length,
        temperature=temperature,
        max_calls=config.max_calls,
        rule=Rule(
            config.rule,
            config.fallback,
            draws=bool(recorded),
            recorded=recorded,
            schedule=config.schedule,
            eps=config.eps,
        ),
        ranking=config.ranking,
        end=EndOfText(ends, ends[0], config.stop_at_end, config.suppress_end),
        cache=CacheSettings(config.cache, config.cache_refresh, config.cache_rows),
        scope=scope,
        chunk=config.vocabulary_chunk,
        guidance=config.guidance,
        rows_per_prompt=rows_per_prompt,
    )


def make_generate(
    policy: Policy,
    settings: SamplerSettings,
    *,
    threshold: str,
    slots: int | None = None,
    mesh: Mesh | None = None,
) -> Generate:
    """Builds generate(params, prompts, dial, keys), one program for every value of the dial.

    Args:
      threshold: "fixed" takes the dial as γ, or as the number of another rule; "drawn" draws γ
        from the head's distribution and ignores the dial; "median" takes γ = dial · exp(μ(c));
        "price" takes the dial as the price λ of L calls, one for all rows or one for each, for the
        head by state.
      slots: rows in flight of the continuous batch, on each device; None for one static batch.
      mesh: devices that hold all parameters and have a continuous batch each; None for one device,
        or for a static batch.
    """
    generate = _make(policy, settings, threshold, slots, mesh, keep_hidden=False)
    return lambda params, prompts, dial, keys: generate(params, prompts, dial, keys)[0]


def make_generate_with_hidden(
    policy: Policy,
    settings: SamplerSettings,
    *,
    threshold: str,
    slots: int | None = None,
    mesh: Mesh | None = None,
) -> GenerateWithHidden:
    """Builds `make_generate`'s program with the hidden states of the first call besides.

    With them a scorer need not pass the all-mask state again (`likelihood.anchored_log_prob`).
    With a cache they are None.
    """
    return _make(policy, settings, threshold, slots, mesh, keep_hidden=True)


def _make(
    policy: Policy,
    settings: SamplerSettings,
    threshold: str,
    slots: int | None,
    mesh: Mesh | None,
    keep_hidden: bool,
) -> GenerateWithHidden:
    make_threshold = {
        "fixed": thresholds.fixed,
        "drawn": lambda dial: thresholds.drawn(policy),
        "median": lambda dial: thresholds.median(policy, dial),
        "price": lambda dial: None,
    }
    if threshold not in make_threshold:
        raise ValueError(f"unknown threshold: {threshold!r}")
    priced = threshold == "price"
    # A first call of its own makes the program larger.  With a cache, whose arrays belong to rows,
    # it cannot be shared.
    apart = settings.cache.kind == "none" and (settings.rows_per_prompt > 1 or keep_hidden)

    def generate(params, prompts, dial, keys):
        gamma, hidden = make_threshold[threshold](dial), None
        begun = unmask.start(policy, params, prompts, settings)
        if priced:
            begun = begun._replace(gamma=dial)
        if apart:
            begun, hidden = unmask.first_call(
                policy, params, prompts, begun, gamma, keys, settings, slots
            )
            gamma = gamma if settings.scope == "call" else None
        rest = (policy, params, prompts, begun, gamma, keys, settings)
        rollout = continuous_batch.stream(*rest, slots) if slots else unmask.finish(*rest)
        return rollout, hidden

    if slots and mesh is not None and mesh.size > 1:
        # A queue on each device, which makes as many calls as its own rows need: no device waits
        # for another before the end.
        generate = jax.shard_map(
            generate,
            mesh=mesh,
            in_specs=(P(), sharding.BATCH, sharding.BATCH if priced else P(), sharding.BATCH),
            out_specs=sharding.BATCH,
            check_vma=False,  # the loop's start holds constants, which are the same on every device
        )
    if not priced:
        return generate

    def generate_priced(params, prompts, dial, keys):
        return generate(params, prompts, jnp.broadcast_to(dial, keys.shape), keys)

    return generate_priced
