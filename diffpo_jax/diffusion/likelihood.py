"""Log-likelihoods of rollouts under surrogates with K anchors (docs/method.md, section 3).

A mean-field surrogate scores each token at one of a few states of the rollout, its anchors
0 = τ_0 < τ_1 < … : token k, committed at call t(k), is scored at the last anchor before that call,

    s(k) = max{ τ_j : τ_j ≤ t(k) − 1 },   log π̂(o_k | c) = log p(o_k | c, z_{s(k)}).

K = 1 is d1's mean field (prompt only), K = 2 is DiFFPO's two-times mean field, and all calls as
anchors give the exact likelihood.  One function computes all of them; K is the width of `anchors`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.arrays.types import Draws, Params, Prompts, Rollout
from diffpo_jax.config import LikelihoodConfig
from diffpo_jax.diffusion import end_of_text, token_distribution
from diffpo_jax.diffusion.anchors import draw_anchors, draw_calls, every_call
from diffpo_jax.diffusion.denoise import denoise
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.models.policy import Policy


def draw(
    key: Key[Array, ""], rollout: Rollout, prompts: Prompts, config: LikelihoodConfig
) -> Draws:
    """Draws the random choices of one inner update: anchors, and prompt tokens that d1 hides."""
    anchor_key, mask_key = jax.random.split(key)
    shape, commit_call, nfe = prompts.tokens.shape, rollout.commit_call, rollout.nfe
    hidden = jax.random.bernoulli(mask_key, config.prompt_masking, shape) & prompts.mask
    if config.anchors != "all":
        anchors = draw_anchors(anchor_key, commit_call, nfe, config.anchors, config.schedule)
        return Draws(anchors, hidden)
    if config.calls:
        drawn, scale = draw_calls(anchor_key, commit_call, nfe, config.calls)
        return Draws(drawn, hidden, scale)
    return Draws(every_call(*commit_call.shape), hidden)


def anchor_index(commit_call: Int[Array, "B L"], anchors: Int[Array, "B K"]) -> Int[Array, "B L"]:
    """Index of the last anchor before each token's commit call, or -1 if there is none."""
    reached = anchors[:, None, :] <= commit_call[:, :, None] - 1
    return jnp.sum(reached, axis=-1) - 1


def state_at(
    tokens: Int[Array, "B L"], commit_call: Int[Array, "B L"], call: Int[Array, "B"], mask_id: int
) -> Int[Array, "B L"]:
    """z_s, the completion after call s, rebuilt from the tokens and their calls."""
    return jnp.where(commit_call <= call[:, None], tokens, mask_id)


def anchored_log_prob(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    rollout: Rollout,
    draws: Draws,
    config: LikelihoodConfig,
    settings: SamplerSettings,
) -> Float[Array, "B L"]:
    """log π̂_θ(o_k | c) of every token of the rollouts.

    Tokens that were filled in after the end of the text, and tokens without an anchor before their
    call, get 0.  Cost: K denoiser calls; with more than two anchors, a pass that scores no token
    of the batch is skipped.

    Args:
      config: its `temperature` (the sampler's if None); `keep_mask`; and `remat`, which recomputes
        each anchor's pass in the backward pass, so that memory does not grow with K.  More than two
        anchors are always recomputed.
      settings: the sampler's.  Its `end` and `chunk` hold for scores too.
    """
    # 1. Hide d1's prompt tokens, and find each token's anchor and its suppressed ends.
    tokens, commit_call = rollout.tokens, rollout.commit_call
    temperature, end = config.temperature or settings.temperature, settings.end
    prompts = prompts._replace(tokens=jnp.where(draws.prompt_mask, policy.mask_id, prompts.tokens))
    index = jnp.where(rollout.sampled, anchor_index(commit_call, draws.anchors), -1)
    suppressed = end_of_text.suppressed_at_commit(rollout, end)

    # 2. Score the tokens of one anchor, in one pass.
    count = draws.anchors.shape[1]
    many = count > 2

    def log_prob(
        hidden: Float[Array, "B c D"], tokens: Int[Array, "B c"], suppressed: Bool[Array, "B c"]
    ) -> Float[Array, "B c"]:
        logits = end_of_text.mask_end_logits(policy.logits(params, hidden), suppressed, end)
        log_p = token_distribution.log_probs(logits, policy.mask_id, temperature, config.keep_mask)
        return token_distribution.token_log_prob(log_p, tokens)

    def one_pass(call: Int[Array, "B"]) -> Float[Array, "B L"]:
        state = state_at(tokens, commit_call, call, policy.mask_id)
        hidden = denoise(policy, params, prompts, state).hidden
        arrays = (hidden, tokens, suppressed)
        return token_distribution.map_positions(log_prob, settings.chunk, *arrays)

    zero = jnp.zeros(tokens.shape, rollout.logprob.dtype)

    def add_anchor(
        total: Float[Array, "B L"], anchor: tuple[Int[Array, ""] | int, Int[Array, "B"]]
    ) -> tuple[Float[Array, "B L"], None]:
        j, call = anchor
        scored = index == j
        if many:
            value = jax.lax.cond(jnp.any(scored), one_pass, lambda call: zero, call)
        else:
            value = one_pass(call)
        return total + jnp.where(scored, value, 0.0), None

    # 3. Add up the anchors.
    if config.remat or many:
        anchors = (jnp.arange(count), draws.anchors.T)
        return jax.lax.scan(jax.checkpoint(add_anchor), zero, anchors)[0]
    # No scan: its derivative would take everything that is the same for all anchors out of the
    # loop and keep it, such as every dequantized kernel.
    total = zero
    for j in range(count):
        total, _ = add_anchor(total, (j, draws.anchors[:, j]))
    return total


def is_exact(commit_call: Int[Array, "B L"], anchors: Int[Array, "B K"]) -> Bool[Array, "B L"]:
    """Tokens whose anchor is the very state they were drawn from: s(k) = t(k) − 1.

    For these, sampler and scorer must agree to rounding before any update.
    """
    index = anchor_index(commit_call, anchors)
    calls = jnp.take_along_axis(anchors, jnp.maximum(index, 0), axis=1)
    return (calls == commit_call - 1) & (index >= 0)
