"""The unmasking sampler: one call, and the loop over calls.

Every row starts as all mask.  A call of the denoiser gives a distribution at each masked
position; the commit rule picks positions of the row's current block; tokens are drawn there and
stay.  Rows that are done change no more.  Nothing returns to Python between calls.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.diffusion import commit, end_of_text, kv_cache, token_distribution
from diffpo_jax.diffusion.denoise import Denoised, denoise
from diffpo_jax.diffusion.kv_cache import Cache
from diffpo_jax.diffusion.settings import EndOfText, SamplerSettings
from diffpo_jax.diffusion.thresholds import Threshold
from diffpo_jax.models.policy import Policy


class Unmasking(NamedTuple):
    """The state of rows that are being written."""

    call: Int[Array, "B"]  # calls made for the row
    tokens: Int[Array, "B L"]
    commit_call: Int[Array, "B L"]  # 0 while masked; above `call` where filled after the end
    logprob: Float[Array, "B L"]
    entropy: Float[Array, "B L"]
    gamma: Float[Array, "B"]  # the rule's dial
    gamma_logprob: Float[Array, "B"]
    forced: Bool[Array, "B"]  # the cap on calls committed what the rule would not have
    features: Float[Array, "B D"]


def unmask(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    threshold: Threshold,
    keys: Key[Array, "B"],
    settings: SamplerSettings,
) -> Rollout:
    """Writes a completion for every prompt in one `lax.while_loop`.

    Args:
      keys: one a row; a row's completion depends on its prompt and its key alone.
    """

    def unfinished(carry: tuple[Unmasking, Cache | None]) -> Array:
        return jnp.any(carry[0].commit_call == 0)

    def body(carry: tuple[Unmasking, Cache | None]) -> tuple[Unmasking, Cache | None]:
        return call(policy, params, prompts, *carry, threshold, keys, settings)

    rows, _ = jax.lax.while_loop(unfinished, body, start(policy, params, prompts, settings))
    return record(rows)


def start(
    policy: Policy, params: Params, prompts: Prompts, settings: SamplerSettings
) -> tuple[Unmasking, Cache | None]:
    """All-mask rows, one for each prompt, and the empty cache of a sampler that has one."""
    batch, shape = prompts.tokens.shape[0], (prompts.tokens.shape[0], settings.length)
    masks = jnp.full(shape, policy.mask_id, jnp.int32)

    # Only shapes and dtypes are asked for: nothing is computed.
    def one_pass(params: Params) -> tuple[Array, Array]:
        out = denoise(policy, params, prompts, masks)
        return policy.logits(params, out.hidden), out.features

    logits, features = jax.eval_shape(one_pass, params)
    rows = Unmasking(
        call=jnp.zeros(batch, jnp.int32),
        tokens=masks,
        commit_call=jnp.zeros(shape, jnp.int32),
        logprob=jnp.zeros(shape, logits.dtype),
        entropy=jnp.zeros(shape, logits.dtype),
        gamma=jnp.zeros(batch, jnp.float32),
        gamma_logprob=jnp.zeros(batch, jnp.float32),
        forced=jnp.zeros(batch, bool),
        features=jnp.zeros((batch, features.shape[1]), features.dtype),
    )
    if settings.cache.kind == "none":
        return rows, None
    return rows, kv_cache.empty_cache(policy, params, prompts, masks)


def call(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    rows: Unmasking,
    cache: Cache | None,
    threshold: Threshold,
    keys: Key[Array, "B"],
    settings: SamplerSettings,
) -> tuple[Unmasking, Cache | None]:
    """One denoiser call for every row; rows with nothing masked come back as they were."""
    open_ = rows.commit_call == 0
    done = ~jnp.any(open_, axis=1)
    number = jnp.where(done, rows.call, rows.call + 1)
    last = number == settings.max_calls  # never, where that is 0
    allowed = open_ & commit.current_block(open_, settings.block_length)
    out, cache = _denoise(policy, params, prompts, rows, cache, ~done, last, settings)

    # The first call is the all-mask pass: the threshold is read off it, at no extra call.
    first = rows.call == 0
    features = jnp.where(first[:, None], out.features, rows.features)
    each_call = settings.scope == "call"
    for_gamma = _fold(keys, 0)
    of_call = _fold(for_gamma, number) if each_call else for_gamma
    drawn, gamma_logprob = threshold(params, features, of_call)
    drawn = drawn.astype(rows.gamma.dtype)
    gamma = jnp.where(first, drawn, rows.gamma)

    wanted = jnp.where(last[:, None], open_, allowed)
    at = token_distribution.read(
        policy, params, out.hidden, wanted, open_, _fold(keys, number), settings
    )
    dial = drawn if each_call else gamma
    chosen = commit.choose(settings.rule, at, allowed, dial, settings.block_length)
    now = jnp.where(last[:, None], open_, chosen)
    new = Unmasking(
        call=number,
        tokens=jnp.where(now, at.token, rows.tokens),
        commit_call=jnp.where(now, number[:, None], rows.commit_call),
        logprob=jnp.where(now, at.logprob, rows.logprob),
        entropy=jnp.where(now, at.entropy, rows.entropy),
        gamma=gamma,
        gamma_logprob=jnp.where(first, gamma_logprob, rows.gamma_logprob),
        forced=rows.forced | jnp.any(now & ~chosen, axis=1),
        features=features,
    )
    return _fill_after_end(new, settings.end), cache


def record(rows: Unmasking) -> Rollout:
    """The rollout of rows that are done."""
    return Rollout(
        tokens=rows.tokens,
        commit_call=rows.commit_call,
        sampled=rows.commit_call <= rows.call[:, None],
        logprob=rows.logprob,
        entropy=rows.entropy,
        nfe=rows.call,
        gamma=rows.gamma,
        gamma_logprob=rows.gamma_logprob,
        forced=rows.forced,
        features=rows.features,
    )


def _denoise(
    policy, params, prompts, rows: Unmasking, cache, working, last, settings: SamplerSettings
) -> tuple[Denoised, Cache | None]:
    if cache is None:
        return denoise(policy, params, prompts, rows.tokens), None
    block = jnp.argmax(rows.commit_call == 0, axis=1).astype(jnp.int32) // settings.block_length
    due = kv_cache.is_due(cache, block, working, settings.cache)
    # A call that commits all blocks needs hidden states of all.
    return kv_cache.denoise_cached(
        policy,
        params,
        prompts,
        rows.tokens,
        cache,
        block,
        due | (last & working),
        settings.cache,
        settings.block_length,
    )


def _fill_after_end(rows: Unmasking, end: EndOfText) -> Unmasking:
    if not end.stop:
        return rows
    open_ = rows.commit_call == 0
    rest = open_ & end_of_text.is_finished(rows.tokens, ~open_, end)[:, None]
    return rows._replace(
        tokens=jnp.where(rest, end.fill, rows.tokens),
        commit_call=jnp.where(rest, rows.call[:, None] + 1, rows.commit_call),
    )


def _fold(keys: Key[Array, "B"], number: Int[Array, "*B"] | int) -> Key[Array, "B"]:
    """The keys of one call: 0 for the threshold, the call's number for its tokens."""
    numbers = jnp.broadcast_to(jnp.asarray(number, jnp.int32), keys.shape)
    return jax.vmap(jax.random.fold_in)(keys, numbers)
