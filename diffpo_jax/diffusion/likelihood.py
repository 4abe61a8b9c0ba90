"""Log-likelihoods of rollouts under mean-field surrogates with K anchors (METHOD 3).

A surrogate evaluates each token at one of a few states the rollout went through, its anchors
0 = τ_0 < τ_1 < … : token k, committed at call t(k), is seen from the last anchor before it,

    s(k) = max{ τ_j : τ_j ≤ t(k) − 1 },   log π̂(o_k | c) = log p(o_k | c, z_{s(k)}).

K = 1 is d1's mean field (prompt only), K = 2 DiFFPO's two-times mean field, all calls as anchors
the exact likelihood.  One function; K is the width of `anchors`.
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
    key: Key[Array, ""],
    rollout: Rollout,
    prompts: Prompts,
    *,
    anchors: int,
    prompt_masking: float,
    schedule: str = "uniform",
    calls: int = 0,
) -> Draws:
    """The random choices of one inner update: anchors, and the prompt tokens d1 hides.

    Args:
      anchors: K; 0: every call, the exact likelihood.
      prompt_masking: probability that a prompt token is hidden.
      schedule: of the anchors, see `anchors.draw_anchors`.
      calls: of the exact likelihood, score the tokens of so many calls only, unbiased (see
        `anchors.draw_calls`); 0: of all.
    """
    for_anchors, for_mask = jax.random.split(key)
    hidden = jax.random.bernoulli(for_mask, prompt_masking, prompts.tokens.shape) & prompts.mask
    commit_call, nfe = rollout.commit_call, rollout.nfe
    if anchors:
        drawn = draw_anchors(for_anchors, commit_call, nfe, anchors, schedule)
        return Draws(drawn, hidden)
    if calls:
        drawn, scale = draw_calls(for_anchors, commit_call, nfe, calls)
        return Draws(drawn, hidden, scale)
    return Draws(every_call(*commit_call.shape), hidden)


def anchor_index(commit_call: Int[Array, "B L"], anchors: Int[Array, "B K"]) -> Int[Array, "B L"]:
    """Which anchor each token is seen from: the j of s(k) = τ_j; -1 where none comes before it."""
    reached = anchors[:, None, :] <= commit_call[:, :, None] - 1
    return jnp.sum(reached, axis=-1) - 1


def state_at(
    tokens: Int[Array, "B L"],
    commit_call: Int[Array, "B L"],
    call: Int[Array, "B"],
    mask_id: int,
) -> Int[Array, "B L"]:
    """z_s, the completion after call s, made again from the tokens and their calls."""
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
    call, get 0.  Cost: K denoiser calls; with more than two anchors, an anchor that no token of the
    batch is scored from is skipped.

    Args:
      config: `temperature`, the sampler's if None; `keep_mask`; and `remat`, which recomputes each
        anchor's pass in the backward pass, so that memory does not grow with K.  More than two
        anchors are always recomputed.
      settings: the sampler's; its end-of-text suppression and `chunk` hold for the scores too.
    """
    temperature, end = config.temperature or settings.temperature, settings.end
    tokens, commit_call = rollout.tokens, rollout.commit_call
    seen = prompts._replace(tokens=jnp.where(draws.prompt_mask, policy.mask_id, prompts.tokens))
    of_token = jnp.where(rollout.sampled, anchor_index(commit_call, draws.anchors), -1)
    gone = end_of_text.suppressed_at_commit(commit_call, rollout.sampled, end)

    count = draws.anchors.shape[1]
    many = count > 2

    def of_hidden(hidden: Array, tokens: Array, gone: Array) -> Array:
        logits = end_of_text.mask_end_logits(policy.logits(params, hidden), gone, end)
        log_p = token_distribution.log_probs(logits, policy.mask_id, temperature, config.keep_mask)
        return token_distribution.token_log_prob(log_p, tokens)

    def one_pass(call: Array) -> Array:
        state = state_at(tokens, commit_call, call, policy.mask_id)
        hidden = denoise(policy, params, seen, state).hidden
        return token_distribution.map_positions(of_hidden, settings.chunk, hidden, tokens, gone)

    zero = jnp.zeros(tokens.shape, rollout.logprob.dtype)

    def one_anchor(total: Array, anchor: tuple[Array | int, Array]) -> tuple[Array, None]:
        j, call = anchor
        seen_from = of_token == j
        if many:
            value = jax.lax.cond(jnp.any(seen_from), one_pass, lambda call: zero, call)
        else:
            value = one_pass(call)
        return total + jnp.where(seen_from, value, 0.0), None

    if config.remat or many:
        anchors = (jnp.arange(count), draws.anchors.T)
        return jax.lax.scan(jax.checkpoint(one_anchor), zero, anchors)[0]
    # No scan: its derivative takes what is the same for all anchors out of it and keeps that, such
    # as every kernel in few bits multiplied out.
    total = zero
    for j in range(count):
        total, _ = one_anchor(total, (j, draws.anchors[:, j]))
    return total


def is_exact(commit_call: Int[Array, "B L"], anchors: Int[Array, "B K"]) -> Bool[Array, "B L"]:
    """Tokens whose anchor is the very state they were drawn from: s(k) = t(k) − 1.

    Before any update sampler and scorer must agree there to rounding.
    """
    of_token = anchor_index(commit_call, anchors)
    calls = jnp.take_along_axis(anchors, jnp.maximum(of_token, 0), axis=1)
    return (calls == commit_call - 1) & (of_token >= 0)
