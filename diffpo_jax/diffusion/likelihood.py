"""Log-likelihoods of rollouts under surrogates with K anchors (docs/method.md, section 3).

A mean-field surrogate scores each token at one of a few states of the rollout, its anchors
0 = τ_0 < τ_1 < … : token k, committed at call t(k), is scored at the last anchor before that call,

    s(k) = max{ τ_j : τ_j ≤ t(k) − 1 },   log π̂(o_k | c) = log p(o_k | c, z_{s(k)}).

K = 1 is d1's mean field (prompt only), K = 2 is DiFFPO's two-times mean field, and all calls as
anchors give the exact likelihood.  One function computes all of them; K is the width of `anchors`.

With attention by blocks, every block has anchors of its own, which count its own calls, and each
state has the blocks before it as they were written: K = 1 conditions a block on all that came
before it, and K passes score a whole rollout, whatever the number of blocks (see `blocks`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.arrays import microbatch
from diffpo_jax.arrays.types import Draws, Params, Prompts, Rollout
from diffpo_jax.config import LikelihoodConfig
from diffpo_jax.diffusion import blocks, end_of_text, token_distribution
from diffpo_jax.diffusion.anchors import draw_anchors, draw_calls, every_call
from diffpo_jax.diffusion.denoise import denoise, denoise_with_kv
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.models.policy import Policy


def draw(
    key: Key[Array, ""],
    rollout: Rollout,
    prompts: Prompts,
    config: LikelihoodConfig,
    group: int = 1,
    policy: Policy | None = None,
) -> Draws:
    """Draws the random choices of one inner update: anchors, and prompt tokens that d1 hides.

    Args:
      group: consecutive rows with the same prompt; for `config.masked_per` "prompt".
      policy: needed where attention is by blocks.
    """
    anchor_key, mask_key = jax.random.split(key)
    commit_call, nfe = rollout.commit_call, rollout.nfe
    (rows, length), alike = prompts.tokens.shape, group if config.masked_per == "prompt" else 1
    hidden = jax.random.bernoulli(mask_key, config.prompt_masking, (rows // alike, length))
    hidden = jnp.repeat(hidden, alike, axis=0) & prompts.mask
    if policy is not None and policy.attention_block:
        return Draws(_draw_by_block(policy, anchor_key, rollout, prompts, config), hidden)
    if config.anchors != "all":
        anchors = draw_anchors(anchor_key, commit_call, nfe, config.anchors, config.schedule)
        return Draws(anchors, hidden)
    if config.calls:
        drawn, scale = draw_calls(anchor_key, commit_call, nfe, config.calls)
        return Draws(drawn, hidden, scale)
    return Draws(every_call(*commit_call.shape, config.shrink), hidden)


def _draw_by_block(
    policy: Policy,
    key: Key[Array, ""],
    rollout: Rollout,
    prompts: Prompts,
    config: LikelihoodConfig,
) -> Int[Array, "B n K"]:
    """Anchors of each block, drawn as if it were a completion by itself."""
    calls = blocks.calls_in_block(policy, rollout, blocks.offsets(policy, prompts))
    rows, count, size = calls.shape
    each = calls.reshape(-1, size)
    if config.anchors == "all":
        anchors = every_call(*each.shape, config.shrink)
    else:
        number = jnp.max(each, axis=1)
        anchors = draw_anchors(key, each, number, config.anchors, config.schedule)
    return anchors.reshape(rows, count, -1)


def by_position(
    policy: Policy,
    prompts: Prompts,
    rollout: Rollout,
    anchors: Int[Array, "B K"] | Int[Array, "B n K"],
) -> tuple[Int[Array, "B L"], Int[Array, "B #L K"]]:
    """The call that committed each position, and its anchors, both counted within its block.

    With attention over whole rows there is one block, and the anchors are the same everywhere.
    """
    if policy.attention_block is None:
        return rollout.commit_call, anchors[:, None, :]
    offset, length = blocks.offsets(policy, prompts), rollout.tokens.shape[1]
    calls = blocks.calls_in_block(policy, rollout, offset)
    each = blocks.by_position(anchors, policy.attention_block, offset, length)
    return blocks.unfold(calls, offset, length), each


def anchor_index(
    calls: Int[Array, "B L"], anchors: Int[Array, "B K"] | Int[Array, "B #L K"]
) -> Int[Array, "B L"]:
    """Index of the last anchor before each token's call, or -1 if there is none."""
    reached = _at_each(anchors) <= calls[:, :, None] - 1
    return jnp.sum(reached, axis=-1) - 1


def state_at(
    tokens: Int[Array, "B L"],
    calls: Int[Array, "B L"],
    call: Int[Array, "B"] | Int[Array, "B #L"],
    mask_id: int,
) -> Int[Array, "B L"]:
    """z_s, the completion after call s, rebuilt from the tokens and their calls."""
    return jnp.where(calls <= call.reshape(call.shape[0], -1), tokens, mask_id)


def anchored_log_prob(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    rollout: Rollout,
    draws: Draws,
    config: LikelihoodConfig,
    settings: SamplerSettings,
    first_hidden: Float[Array, "U L D"] | None = None,
) -> Float[Array, "B L"]:
    """log π̂_θ(o_k | c) of every token of the rollouts.

    Tokens that were filled in after the end of the text, and tokens without an anchor before their
    call, get 0.  Cost: K denoiser calls for each rollout, of which the first, of the all-mask
    state, is one for all rollouts of a prompt (`settings.rows_per_prompt`) unless prompt tokens are
    hidden rollout by rollout.  With more than two anchors, a pass that scores no token of the batch
    is skipped.

    Args:
      config: its `temperature` (the sampler's if None); `keep_mask`; and `remat`, which recomputes
        each anchor's pass in the backward pass, so that memory does not grow with K.  More than two
        anchors are always recomputed.
      settings: the sampler's.  Its `end` and `chunk` hold for scores too.
      first_hidden: hidden states of the all-mask state of each prompt under the same parameters, as
        the sampler recorded them, if `config.reuses_first_call`; None to compute them.
    """
    # 1. Hide d1's prompt tokens, and find each token's anchor and its suppressed ends.
    tokens = rollout.tokens
    temperature, end = config.temperature or settings.temperature, settings.end
    prompts = prompts._replace(tokens=jnp.where(draws.prompt_mask, policy.mask_id, prompts.tokens))
    calls, anchors = by_position(policy, prompts, rollout, draws.anchors)
    index = jnp.where(rollout.sampled, anchor_index(calls, anchors), -1)
    suppressed = end_of_text.suppressed_at_commit(rollout, end)
    count = anchors.shape[2]
    many = count > 2

    def log_prob(
        hidden: Float[Array, "B c D"], tokens: Int[Array, "B c"], suppressed: Bool[Array, "B c"]
    ) -> Float[Array, "B c"]:
        logits = end_of_text.mask_end_logits(policy.logits(params, hidden), suppressed, end)
        log_p = token_distribution.log_probs(logits, policy.mask_id, temperature, config.keep_mask)
        return token_distribution.token_log_prob(log_p, tokens)

    # 2. Score all tokens of the rollouts of a prompt at its all-mask state, in one pass.
    def first_pass(hidden: Float[Array, "U L D"] | None) -> Float[Array, "B L"]:
        size = settings.rows_per_prompt if config.shares_first_state else 1
        if hidden is None:
            each = jax.tree.map(lambda x: x[:, 0], microbatch.fold(prompts, size))
            masks = jnp.full((tokens.shape[0] // size, tokens.shape[1]), policy.mask_id)
            hidden = denoise(policy, params, each, masks.astype(tokens.dtype)).hidden
        by_prompt = [jnp.swapaxes(x, 1, 2) for x in microbatch.fold((tokens, suppressed), size)]
        # What does not depend on the rollout, such as the logits, is computed once.
        all_rows = jax.vmap(log_prob, in_axes=(None, 2, 2), out_axes=2)
        value = token_distribution.map_positions(all_rows, settings.chunk, hidden, *by_prompt)
        return microbatch.unfold(jnp.swapaxes(value, 1, 2))

    # 3. Score the tokens of a later anchor.
    clean = denoise_with_kv(policy, params, prompts, tokens) if policy.attention_block else None

    def one_pass(call: Int[Array, "B #L"]) -> Float[Array, "B L"]:
        state = state_at(tokens, calls, call, policy.mask_id)
        if policy.attention_block:
            hidden = blocks.denoise_beside(policy, params, prompts, clean, state)
        else:
            hidden = denoise(policy, params, prompts, state).hidden
        arrays = (hidden, tokens, suppressed)
        return token_distribution.map_positions(log_prob, settings.chunk, *arrays)

    zero = jnp.zeros(tokens.shape, rollout.logprob.dtype)

    def add_anchor(
        total: Float[Array, "B L"], anchor: tuple[Int[Array, ""] | int, Int[Array, "B #L"]]
    ) -> tuple[Float[Array, "B L"], None]:
        j, call = anchor
        scored = index == j
        if many:
            value = jax.lax.cond(jnp.any(scored), one_pass, lambda call: zero, call)
        else:
            value = one_pass(call)
        return total + jnp.where(scored, value, 0.0), None

    # 4. Add up the anchors.
    recomputed, first, total = config.remat or many, 0, zero
    # The first anchor is the state without tokens, which rollouts share.
    if draws.scale is None and policy.attention_block is None:
        value = (jax.checkpoint(first_pass) if recomputed else first_pass)(first_hidden)
        first, total = 1, jnp.where(index == 0, value, 0.0)
    if recomputed and first < count:
        rest = (jnp.arange(first, count), jnp.moveaxis(anchors, 2, 0)[first:])
        return jax.lax.scan(jax.checkpoint(add_anchor), total, rest)[0]
    # No scan: its derivative would take everything that is the same for all anchors out of the
    # loop and keep it, such as every dequantized kernel.
    for j in range(first, count):
        total, _ = add_anchor(total, (j, anchors[:, :, j]))
    return total


def is_exact(
    calls: Int[Array, "B L"], anchors: Int[Array, "B K"] | Int[Array, "B #L K"]
) -> Bool[Array, "B L"]:
    """Tokens whose anchor is the very state they were drawn from: s(k) = t(k) − 1.

    For these, sampler and scorer must agree to rounding before any update.
    """
    index = anchor_index(calls, anchors)
    anchors = jnp.broadcast_to(_at_each(anchors), (*calls.shape, anchors.shape[-1]))
    own = jnp.take_along_axis(anchors, jnp.maximum(index, 0)[:, :, None], axis=2)[:, :, 0]
    return (own == calls - 1) & (index >= 0)


def _at_each(
    anchors: Int[Array, "B K"] | Int[Array, "B #L K"],
) -> Int[Array, "B #L K"]:
    return anchors.reshape(anchors.shape[0], -1, anchors.shape[-1])
