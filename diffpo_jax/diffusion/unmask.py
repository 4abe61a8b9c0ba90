"""The unmasking sampler: one call, and the loop over calls.

Every row starts as all mask.  A call of the denoiser gives a distribution at each masked
position; the commit rule picks positions of the row's current block; tokens are drawn there and
stay.  Rows that are done change no more.  Nothing returns to Python between calls.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.diffusion import commit, vocabulary
from diffpo_jax.diffusion.denoise import denoise
from diffpo_jax.diffusion.thresholds import Threshold
from diffpo_jax.models.policy import Policy
from diffpo_jax.types import Params, Prompts, Rollout


class SamplerSettings(NamedTuple):
    """What is compiled into a sampler; thresholds, prompts and keys are not."""

    length: int  # L
    block_length: int  # divides L
    temperature: float  # of the tokens; 0: argmax
    max_calls: int  # the call that commits whatever is left; 0: L, which never forces


class Unmasking(NamedTuple):
    """The state of rows that are being written."""

    call: Int[Array, "B"]  # calls made for the row
    tokens: Int[Array, "B L"]
    commit_call: Int[Array, "B L"]  # 0 while masked
    logprob: Float[Array, "B L"]
    entropy: Float[Array, "B L"]
    gamma: Float[Array, "B"]
    gamma_logprob: Float[Array, "B"]
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

    def unfinished(rows: Unmasking) -> Array:
        return jnp.any(rows.commit_call == 0)

    def body(rows: Unmasking) -> Unmasking:
        return call(policy, params, prompts, rows, threshold, keys, settings)

    rows = jax.lax.while_loop(unfinished, body, start(policy, params, prompts, settings))
    return record(rows)


def start(policy: Policy, params: Params, prompts: Prompts, settings: SamplerSettings) -> Unmasking:
    """All-mask rows, one for each prompt."""
    batch, shape = prompts.tokens.shape[0], (prompts.tokens.shape[0], settings.length)
    masks = jnp.full(shape, policy.mask_id, jnp.int32)
    # Only shapes and dtypes are asked for: nothing is computed.
    out = jax.eval_shape(lambda p: denoise(policy, p, prompts, masks), params)
    return Unmasking(
        call=jnp.zeros(batch, jnp.int32),
        tokens=masks,
        commit_call=jnp.zeros(shape, jnp.int32),
        logprob=jnp.zeros(shape, out.logits.dtype),
        entropy=jnp.zeros(shape, out.logits.dtype),
        gamma=jnp.zeros(batch, jnp.float32),
        gamma_logprob=jnp.zeros(batch, jnp.float32),
        features=jnp.zeros((batch, out.features.shape[1]), out.features.dtype),
    )


def call(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    rows: Unmasking,
    threshold: Threshold,
    keys: Key[Array, "B"],
    settings: SamplerSettings,
) -> Unmasking:
    """One denoiser call for every row; rows with nothing masked come back as they were."""
    open_ = rows.commit_call == 0
    done = ~jnp.any(open_, axis=1)
    number = jnp.where(done, rows.call, rows.call + 1)
    out = denoise(policy, params, prompts, rows.tokens)

    # The first call is the all-mask pass: the threshold is read off it, at no extra call.
    gamma, gamma_logprob = threshold(params, out.features, _fold(keys, 0))
    first = rows.call == 0
    gamma = jnp.where(first, gamma.astype(rows.gamma.dtype), rows.gamma)

    # The rule looks at the untempered distribution, whatever the tokens are drawn at.
    untempered = vocabulary.log_probs(out.logits, policy.mask_id, 1.0)
    entropy = vocabulary.entropy(untempered)
    temperature = settings.temperature
    log_p = untempered
    if temperature not in (0, 1):
        log_p = vocabulary.log_probs(out.logits, policy.mask_id, temperature)
    drawn = vocabulary.sample(log_p, _fold(keys, number), temperature)

    allowed = open_ & _current_block(open_, settings.block_length)
    now = commit.entropy_bounded(entropy, allowed, gamma)
    if settings.max_calls:
        now = jnp.where((number >= settings.max_calls)[:, None], open_, now)
    return Unmasking(
        call=number,
        tokens=jnp.where(now, drawn, rows.tokens),
        commit_call=jnp.where(now, number[:, None], rows.commit_call),
        logprob=jnp.where(now, vocabulary.token_log_prob(log_p, drawn), rows.logprob),
        entropy=jnp.where(now, entropy, rows.entropy),
        gamma=gamma,
        gamma_logprob=jnp.where(first, gamma_logprob, rows.gamma_logprob),
        features=jnp.where(first[:, None], out.features, rows.features),
    )


def record(rows: Unmasking) -> Rollout:
    """The rollout of rows that are done."""
    return Rollout(
        tokens=rows.tokens,
        commit_call=rows.commit_call,
        sampled=rows.commit_call > 0,
        logprob=rows.logprob,
        entropy=rows.entropy,
        nfe=jnp.max(rows.commit_call, axis=1),
        gamma=rows.gamma,
        gamma_logprob=rows.gamma_logprob,
        features=rows.features,
    )


def _current_block(open_: Bool[Array, "B L"], block_length: int) -> Bool[Array, "B L"]:
    """Positions of the row's first block that is not full; rows move on by themselves."""
    block = jnp.arange(open_.shape[1]) // block_length
    first = jnp.argmax(open_, axis=1) // block_length
    return block[None, :] == first[:, None]


def _fold(keys: Key[Array, "B"], number: Int[Array, "*B"] | int) -> Key[Array, "B"]:
    """The keys of one call: 0 for the threshold, the call's number for its tokens."""
    numbers = jnp.broadcast_to(jnp.asarray(number, jnp.int32), keys.shape)
    return jax.vmap(jax.random.fold_in)(keys, numbers)
