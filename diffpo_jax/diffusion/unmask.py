"""The unmasking sampler: one call, and the loop over calls.

Every row starts as all mask.  A call of the denoiser gives a distribution at each masked position;
a token is drawn at each that may be committed, and the commit rule chooses which tokens to keep.
Rows that are done no longer change.  Nothing returns to Python between calls.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.diffusion import commit, end_of_text, kv_cache, token_distribution
from diffpo_jax.diffusion.denoise import Denoised, denoise
from diffpo_jax.diffusion.kv_cache import Cache
from diffpo_jax.diffusion.settings import EndOfText, SamplerSettings
from diffpo_jax.diffusion.thresholds import Threshold
from diffpo_jax.models.policy import Policy


class Unmasking(NamedTuple):
    """The state of rows that are being written; fields as in `Rollout`."""

    call: Int[Array, "B"]  # calls made for the row
    tokens: Int[Array, "B L"]
    commit_call: Int[Array, "B L"]  # 0 while masked; call + 1 if filled in after the end
    logprob: Float[Array, "B L"]
    entropy: Float[Array, "B L"]
    gamma: Float[Array, "B"]
    gamma_logprob: Float[Array, "B"]
    forced: Bool[Array, "B"]
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
      keys: one per row; a row's completion depends only on its prompt and its key.
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
    """One all-mask row per prompt, and an empty cache if the sampler has one."""
    batch, shape = prompts.tokens.shape[0], (prompts.tokens.shape[0], settings.length)
    masks = jnp.full(shape, policy.mask_id, jnp.int32)

    # Only shapes and dtypes are needed, so nothing is computed.
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
    """Makes one denoiser call for every row; rows without a masked position do not change."""
    # 1. Run the denoiser on the rows as they are.
    open_ = rows.commit_call == 0
    done = ~jnp.any(open_, axis=1)
    number = jnp.where(done, rows.call, rows.call + 1)
    last = number == (settings.max_calls or 0)  # never, without a cap
    allowed = open_ & commit.current_block(open_, settings.block_length)
    out, cache = _denoise(policy, params, prompts, rows, cache, ~done, last, settings)

    # 2. Get the threshold.  The first call is the all-mask pass, whose features the head reads, so
    #    that the head costs no call of its own.
    first = rows.call == 0
    features = jnp.where(first[:, None], out.features, rows.features)
    each_call = settings.scope == "call"
    threshold_keys = rng.fold_in_rows(keys, 0)  # the keys of tokens have 1, 2, ...
    if each_call:
        threshold_keys = rng.fold_in_rows(threshold_keys, number)
    drawn, gamma_logprob = threshold(params, features, threshold_keys)
    drawn = drawn.astype(rows.gamma.dtype)
    gamma = jnp.where(first, drawn, rows.gamma)

    # 3. Read the distributions, and draw a token at every position that may be committed.
    wanted = jnp.where(last[:, None], open_, allowed)
    readings = token_distribution.read(
        policy, params, out.hidden, wanted, open_, rng.fold_in_rows(keys, number), settings
    )

    # 4. Choose the positions to commit; the cap commits everything that is left.
    dial = drawn if each_call else gamma
    chosen = commit.choose(settings.rule, readings, allowed, dial, settings.block_length)
    committed = jnp.where(last[:, None], open_, chosen)

    # 5. Record them, and fill the rows that have reached the end of their text.
    new = Unmasking(
        call=number,
        tokens=jnp.where(committed, readings.token, rows.tokens),
        commit_call=jnp.where(committed, number[:, None], rows.commit_call),
        logprob=jnp.where(committed, readings.logprob, rows.logprob),
        entropy=jnp.where(committed, readings.entropy, rows.entropy),
        gamma=gamma,
        gamma_logprob=jnp.where(first, gamma_logprob, rows.gamma_logprob),
        forced=rows.forced | jnp.any(committed & ~chosen, axis=1),
        features=features,
    )
    return _fill_after_end(new, settings.end), cache


def record(rows: Unmasking) -> Rollout:
    """Returns the rollout of rows that are done."""
    fields = rows._asdict()
    nfe = fields.pop("call")
    return Rollout(**fields, nfe=nfe, sampled=rows.commit_call <= nfe[:, None])


def _denoise(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    rows: Unmasking,
    cache: Cache | None,
    working: Bool[Array, "B"],
    last: Bool[Array, "B"],
    settings: SamplerSettings,
) -> tuple[Denoised, Cache | None]:
    if cache is None:
        return denoise(policy, params, prompts, rows.tokens), None
    block = jnp.argmax(rows.commit_call == 0, axis=1).astype(jnp.int32) // settings.block_length
    # The call of the cap commits positions of all blocks, and needs hidden states of all.
    due = kv_cache.is_due(cache, block, working, settings.cache) | (last & working)
    return kv_cache.denoise_cached(
        policy, params, prompts, rows.tokens, cache, block, due, settings
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
