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

from diffpo_jax.diffusion import end_of_text, vocabulary
from diffpo_jax.diffusion.denoise import denoise
from diffpo_jax.diffusion.end_of_text import IGNORED, EndOfText
from diffpo_jax.models.policy import Policy
from diffpo_jax.types import Draws, Params, Prompts, Rollout


def draw_anchors(
    key: Key[Array, ""], commit_call: Int[Array, "B L"], count: int
) -> Int[Array, "B K"]:
    """Anchors that are stopping times: τ_0 = 0, the others by tokens committed so far.

    For u ~ U(0, 1), τ is the first call by which at least u·L positions are committed.  It is
    decided by what has been committed, never by the number of calls, which is known only at the
    end: with a fraction of that number the surrogate would not be a distribution.  Anchors that
    coincide merge by themselves: the tokens between them are none.

    Args:
      count: K.  Each row draws its own K − 1 numbers.
    """
    batch, length = commit_call.shape
    u = jnp.sort(jax.random.uniform(key, (batch, count - 1)), axis=1)
    order = jnp.sort(commit_call, axis=1)  # the m-th entry: the call that committed the m-th
    place = jnp.clip(jnp.ceil(u * length).astype(jnp.int32) - 1, 0, length - 1)
    later = jnp.take_along_axis(order, place, axis=1)
    return jnp.concatenate([jnp.zeros((batch, 1), commit_call.dtype), later], axis=1)


def draw(
    key: Key[Array, ""], rollout: Rollout, prompts: Prompts, *, anchors: int, prompt_masking: float
) -> Draws:
    """The random choices of one inner update: anchors, and the prompt tokens d1 hides."""
    for_anchors, for_mask = jax.random.split(key)
    hidden = jax.random.bernoulli(for_mask, prompt_masking, prompts.tokens.shape)
    return Draws(draw_anchors(for_anchors, rollout.commit_call, anchors), hidden & prompts.mask)


def segment(commit_call: Int[Array, "B L"], anchors: Int[Array, "B K"]) -> Int[Array, "B L"]:
    """Which anchor each token is seen from: the j of s(k) = τ_j."""
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
    *,
    temperature: float,
    remat: bool = False,
    end: EndOfText = IGNORED,
) -> Float[Array, "B L"]:
    """log π̂_θ(o_k | c) of every token of the rollouts, at the rollouts' temperature.

    Cost: K denoiser calls.

    Args:
      remat: compute each anchor's pass again in the backward pass, so that memory does not grow
        with K.
      end: the sampler's; what it removes from a distribution is removed here as well.
    """
    tokens, commit_call = rollout.tokens, rollout.commit_call
    seen = prompts._replace(tokens=jnp.where(draws.prompt_mask, policy.mask_id, prompts.tokens))
    of_token = segment(commit_call, draws.anchors)
    gone = end_of_text.removed_at_commit(commit_call, rollout.sampled, end)

    def one_anchor(total: Array, anchor: tuple[Array, Array]) -> tuple[Array, None]:
        j, call = anchor
        state = state_at(tokens, commit_call, call, policy.mask_id)
        logits = policy.logits(params, denoise(policy, params, seen, state).hidden)
        logits = end_of_text.without(logits, gone, end)
        log_p = vocabulary.log_probs(logits, policy.mask_id, temperature)
        value = vocabulary.token_log_prob(log_p, tokens)
        return total + jnp.where(of_token == j, value, 0.0), None

    count = draws.anchors.shape[1]
    zero = jnp.zeros(tokens.shape, rollout.logprob.dtype)
    anchors = (jnp.arange(count), draws.anchors.T)
    body = jax.checkpoint(one_anchor) if remat else one_anchor
    total, _ = jax.lax.scan(body, zero, anchors, unroll=1 if remat else count)
    return total


def is_exact(commit_call: Int[Array, "B L"], anchors: Int[Array, "B K"]) -> Bool[Array, "B L"]:
    """Tokens whose anchor is the very state they were drawn from: s(k) = t(k) − 1.

    Before any update sampler and scorer must agree there to rounding.
    """
    calls = jnp.take_along_axis(anchors, segment(commit_call, anchors), axis=1)
    return calls == commit_call - 1
