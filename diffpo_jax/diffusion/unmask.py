"""The unmasking sampler: one call, and the loop over calls.

Every row starts as all mask.  A call of the denoiser gives a distribution at each masked position;
a token is drawn at each that may be committed, and the commit rule chooses which tokens to keep.
Rows that are done no longer change.  Nothing returns to Python between calls.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.arrays import microbatch, rng
from diffpo_jax.arrays.types import Choices, Observation, Params, Prompts, Rollout
from diffpo_jax.diffusion import (
    block_cache,
    blocks,
    commit,
    commit_policy,
    end_of_text,
    kv_cache,
    token_distribution,
)
from diffpo_jax.diffusion.denoise import Denoised, denoise, denoise_guided
from diffpo_jax.diffusion.settings import EndOfText, SamplerSettings
from diffpo_jax.diffusion.thresholds import Threshold
from diffpo_jax.models.policy import Policy

Cache = kv_cache.Cache | block_cache.Cache

_DECISIONS = 2**31 - 1  # folded into the keys of the head by state; calls have 1, 2, ...


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
    choices: Choices | None = None
    offset: Int[Array, "B"] | None = None


class _Plan(NamedTuple):
    """What the next call of each row may do."""

    open_: Bool[Array, "B L"]  # masked positions
    allowed: Bool[Array, "B L"]  # those of the current block
    number: Int[Array, "B"]  # of the call; that of the last one in rows that are done
    last: Bool[Array, "B"]  # whether the cap makes it the last call

    @property
    def wanted(self) -> Bool[Array, "B L"]:
        """Positions whose distributions are read."""
        return jnp.where(self.last[:, None], self.open_, self.allowed)


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
    begun = start(policy, params, prompts, settings)
    return finish(policy, params, prompts, begun, threshold, keys, settings)


def first_call(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    rows: Unmasking,
    threshold: Threshold | None,
    keys: Key[Array, "B"],
    settings: SamplerSettings,
    piece: int | None = None,
) -> tuple[Unmasking, Float[Array, "U L D"]]:
    """Makes the first call of every row, with one pass for the rows that share a prompt.

    It uses no cache: a cached sampler starts without it.

    Args:
      rows: from `start`.
      threshold: None if the rows have their dials already.
      piece: prompts per pass; None for all U of them.

    Returns:
      The rows after the call, and each prompt's hidden states in it.
    """
    # 1. Take each prompt once.  The state is the same for its rows, and so is what they may do.
    size = settings.rows_per_prompt
    first = jax.tree.map(lambda x: x[:, 0], microbatch.fold(prompts, size))
    plan = _plan(rows, settings)
    open_, wanted = (microbatch.fold(x, size)[:, 0] for x in (plan.open_, plan.wanted))
    tokens = microbatch.fold(rows.tokens, size)[:, 0]
    read_keys = microbatch.fold(rng.fold_in_rows(keys, plan.number), size)

    # 2. Pass it once, and draw from its distributions for each of its rows.
    def one_pass(part):
        prompts, tokens, open_, wanted, keys = part
        out = denoise_guided(policy, params, prompts, tokens, settings.guidance)

        def read(keys):
            return token_distribution.read(
                policy, params, out.hidden, wanted, open_, keys, settings
            )

        return out, jax.vmap(read, in_axes=1, out_axes=1)(keys)

    parts = (first, tokens, open_, wanted, read_keys)
    out, readings = microbatch.map_rows(one_pass, parts, piece)

    # 3. Commit.
    features, hidden = (jnp.repeat(x, size, axis=0) for x in (out.features, out.hidden))
    called = Denoised(hidden, features), microbatch.unfold(readings)
    rows = _commit(policy, params, rows, plan, *called, threshold, keys, settings)
    return rows, out.hidden


def finish(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    begun: Unmasking,
    threshold: Threshold | None,
    keys: Key[Array, "B"],
    settings: SamplerSettings,
) -> Rollout:
    """Makes calls until every row is done.

    Args:
      threshold: None if every row has its threshold from its first call.
    """

    def unfinished(carry: tuple[Unmasking, Cache | None]) -> Array:
        return jnp.any(carry[0].commit_call == 0)

    def body(carry: tuple[Unmasking, Cache | None]) -> tuple[Unmasking, Cache | None]:
        return call(policy, params, prompts, *carry, threshold, keys, settings)

    cache = make_cache(policy, params, prompts, begun, settings)
    rows, _ = jax.lax.while_loop(unfinished, body, (begun, cache))
    return record(rows, settings)


def start(policy: Policy, params: Params, prompts: Prompts, settings: SamplerSettings) -> Unmasking:
    """One all-mask row per prompt."""
    batch, shape = prompts.tokens.shape[0], (prompts.tokens.shape[0], settings.length)
    masks = jnp.full(shape, policy.mask_id, jnp.int32)

    # Only shapes and dtypes are needed, so nothing is computed.
    def one_pass(params: Params) -> tuple[Array, Array, Array]:
        out = denoise(policy, params, prompts, masks)
        return policy.logits(params, out.hidden), out.features, out.hidden

    logits, features, hidden = jax.eval_shape(one_pass, params)
    return Unmasking(
        call=jnp.zeros(batch, jnp.int32),
        tokens=masks,
        commit_call=jnp.zeros(shape, jnp.int32),
        logprob=jnp.zeros(shape, logits.dtype),
        entropy=jnp.zeros(shape, logits.dtype),
        gamma=jnp.zeros(batch, jnp.float32),
        gamma_logprob=jnp.zeros(batch, jnp.float32),
        forced=jnp.zeros(batch, bool),
        features=jnp.zeros((batch, features.shape[1]), features.dtype),
        choices=_no_choices(batch, hidden, logits, settings),
        offset=blocks.offsets(policy, prompts) if policy.attention_origin == "prompt" else None,
    )


def _no_choices(batch: int, hidden: Any, logits: Any, settings: SamplerSettings) -> Choices | None:
    calls, size = settings.rule.recorded, settings.block_length
    if settings.rule.name != "state" or not calls:
        return None
    shape = (batch, calls, size)
    return Choices(
        seen=Observation(
            hidden=jnp.zeros((*shape, hidden.shape[-1]), hidden.dtype),
            entropy=jnp.zeros(shape, logits.dtype),
            clash=jnp.zeros((*shape, size), logits.dtype),
            place=jnp.zeros(shape, jnp.int32),
            open=jnp.zeros(shape, bool),
            price=jnp.zeros(shape[:2], jnp.float32),
        ),
        count=jnp.zeros(shape[:2], jnp.int32),
        logprob=jnp.zeros(shape[:2], jnp.float32),
        call=jnp.zeros(shape[:2], jnp.int32),
        token=jnp.zeros(shape, jnp.int32),
    )


def make_cache(
    policy: Policy, params: Params, prompts: Prompts, rows: Unmasking, settings: SamplerSettings
) -> Cache | None:
    """An empty cache for these rows, if the sampler has one."""
    if settings.cache.kind == "none":
        return None
    if settings.cache.kind == "block":
        return block_cache.empty_cache(policy, params, prompts, settings.length)
    return kv_cache.empty_cache(policy, params, prompts, rows.tokens)


def call(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    rows: Unmasking,
    cache: Cache | None,
    threshold: Threshold | None,
    keys: Key[Array, "B"],
    settings: SamplerSettings,
    temperature: Float[Array, "B"] | None = None,
) -> tuple[Unmasking, Cache | None]:
    """Makes one denoiser call for every row; rows without a masked position do not change.

    Args:
      threshold: None if every row has its threshold from its first call.
      temperature: of each row, in place of the one of the settings.
    """
    plan = _plan(rows, settings)
    out, cache = _denoise(policy, params, prompts, rows, cache, plan, settings)
    read_keys = rng.fold_in_rows(keys, plan.number)
    readings = token_distribution.read(
        policy, params, out.hidden, plan.wanted, plan.open_, read_keys, settings, temperature
    )
    rows = _commit(policy, params, rows, plan, out, readings, threshold, keys, settings)
    return rows, cache


def _plan(rows: Unmasking, settings: SamplerSettings) -> _Plan:
    open_ = rows.commit_call == 0
    number = jnp.where(jnp.any(open_, axis=1), rows.call + 1, rows.call)
    last = number == (settings.max_calls or 0)  # never, without a cap
    block = commit.current_block(open_, settings.block_length, rows.offset)
    return _Plan(open_, open_ & block, number, last)


def _commit(
    policy: Policy,
    params: Params,
    rows: Unmasking,
    plan: _Plan,
    out: Denoised,
    readings: token_distribution.Readings,
    threshold: Threshold | None,
    keys: Key[Array, "B"],
    settings: SamplerSettings,
) -> Unmasking:
    """The rows after a call, whose outputs and readings are given."""
    # 1. Get the threshold.  The first call is the all-mask pass, whose features the head reads, so
    #    that the head costs no call of its own.
    dial = rows.gamma
    if threshold is not None:
        first, each_call = rows.call == 0, settings.scope == "call"
        features = jnp.where(first[:, None], out.features, rows.features)
        threshold_keys = rng.fold_in_rows(keys, 0)  # the keys of tokens have 1, 2, ...
        if each_call:
            threshold_keys = rng.fold_in_rows(threshold_keys, plan.number)
        drawn, gamma_logprob = threshold(params, features, threshold_keys)
        drawn = drawn.astype(rows.gamma.dtype)
        rows = rows._replace(
            gamma=jnp.where(first, drawn, rows.gamma),
            gamma_logprob=jnp.where(first, gamma_logprob, rows.gamma_logprob),
            features=features,
        )
        dial = drawn if each_call else rows.gamma

    # 2. Choose the positions to commit; the cap commits everything that is left.
    choices = rows.choices
    if settings.rule.name == "state":
        seen = commit_policy.observe(
            policy,
            params,
            out.hidden,
            readings,
            plan.allowed,
            dial / settings.length,
            settings.block_length,
            rows.offset,
        )
        call_keys = rng.fold_in_rows(rng.fold_in_rows(keys, _DECISIONS), plan.number)
        count, log_p = commit_policy.decide(
            policy, params, seen, call_keys if settings.rule.draws else None
        )
        chosen = commit.top_k(readings.error, plan.allowed, count)
        if choices is not None:
            made = jnp.any(plan.open_, axis=1) & ~plan.last
            token = commit_policy.in_order(
                readings.token, readings, plan.allowed, settings.block_length
            )
            choices = commit_policy.record(
                choices, seen, count, log_p, plan.number, made, token, call_keys
            )
    else:
        size = settings.block_length
        chosen = commit.choose(settings.rule, readings, plan.allowed, dial, size, plan.number)
    committed = jnp.where(plan.last[:, None], plan.open_, chosen)

    # 3. Record them, and fill the rows that have reached the end of their text.
    new = rows._replace(
        call=plan.number,
        tokens=jnp.where(committed, readings.token, rows.tokens),
        commit_call=jnp.where(committed, plan.number[:, None], rows.commit_call),
        logprob=jnp.where(committed, readings.logprob, rows.logprob),
        entropy=jnp.where(committed, readings.entropy, rows.entropy),
        forced=rows.forced | jnp.any(committed & ~chosen, axis=1),
        choices=choices,
    )
    return _fill_after_end(new, settings.end)


def record(rows: Unmasking, settings: SamplerSettings) -> Rollout:
    """Returns the rollout of rows that are done."""
    fields = rows._asdict()
    calls = fields.pop("call")
    nfe = 2 * calls if settings.guidance else calls
    return Rollout(**fields, nfe=nfe, sampled=rows.commit_call <= calls[:, None])


def _denoise(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    rows: Unmasking,
    cache: Cache | None,
    plan: _Plan,
    settings: SamplerSettings,
) -> tuple[Denoised, Cache | None]:
    if cache is None:
        return denoise_guided(policy, params, prompts, rows.tokens, settings.guidance), None
    if settings.cache.kind == "block":
        working = jnp.any(plan.open_, axis=1)
        return block_cache.denoise_cached(
            policy, params, prompts, rows.tokens, plan.open_, cache, working, settings
        )
    block = jnp.argmax(plan.open_, axis=1).astype(jnp.int32) // settings.block_length
    working = jnp.any(plan.open_, axis=1)
    # The call of the cap commits positions of all blocks, and needs hidden states of all.
    due = kv_cache.is_due(cache, block, working, settings.cache) | (plan.last & working)
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
