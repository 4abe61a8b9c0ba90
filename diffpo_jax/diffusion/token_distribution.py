"""The token distribution: log-probabilities, entropies, draws.

One function gives log-probabilities to the sampler and to the scorer, at one temperature, so
that the ratio of the two is 1 before any update.

`read` is what a denoiser call says of every position that is asked about.  With vocabularies of
10^5 tokens its arrays over the vocabulary are the largest of all, so it can take a few positions
of each row at a time.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from diffpo_jax.arrays.types import Params
from diffpo_jax.diffusion import end_of_text
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.models.policy import Policy


class Readings(NamedTuple):
    """What a call says of each position; zeros where nothing was asked.

    `logprob` is the token's at the temperature of the draw; at temperature 0 nothing is drawn
    and it is taken at temperature 1.  `entropy` and `error` are of the untempered distribution,
    whatever the tokens are drawn at: tempered entropies vanish with T.
    """

    token: Int[Array, "*N"]
    logprob: Float[Array, "*N"]
    entropy: Float[Array, "*N"]  # nats
    error: Float[Array, "*N"]  # the lower, the sooner the position is committed


def log_probs(
    logits: Float[Array, "*N V"], mask_id: int, temperature: float, keep_mask: bool = False
) -> Float[Array, "*N V"]:
    """log softmax(logits / T) with the mask token removed (its entry is -inf).

    Args:
      temperature: T > 0.
      keep_mask: leave the mask token in, as d1's scoring does.
    """
    if keep_mask:
        return jax.nn.log_softmax(logits / temperature, axis=-1)
    is_mask = jnp.arange(logits.shape[-1]) == mask_id
    return jax.nn.log_softmax(jnp.where(is_mask, -jnp.inf, logits / temperature), axis=-1)


def token_log_prob(log_p: Float[Array, "*N V"], tokens: Int[Array, "*N"]) -> Float[Array, "*N"]:
    """The entry of each token."""
    return jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]


def entropy(log_p: Float[Array, "*N V"]) -> Float[Array, "*N"]:
    """Entropy in nats; entries of -inf count nothing, in the gradient either."""
    # Double where: p log p at p = 0 is 0, but the gradient of log there is not finite.
    finite = jnp.where(jnp.isfinite(log_p), log_p, 0.0)
    p = jnp.where(jnp.isfinite(log_p), jnp.exp(finite), 0.0)
    return jnp.maximum(-jnp.sum(p * finite, axis=-1), 0.0)


def map_positions(
    function: Callable[..., Float[Array, "B c"]], chunk: int, *arrays: Shaped[Array, "B L ..."]
) -> Float[Array, "B L"]:
    """function(*arrays), a value a position, with arrays over V for `chunk` positions at a time.

    The chunks are computed again in the backward pass, which holds one at a time too.

    Args:
      function: of the arrays at c positions of each row.
      chunk: c; 0: all L at once.
    """
    rows, length = arrays[0].shape[:2]
    if not chunk or chunk >= length:
        return function(*arrays)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, -length % chunk), *((0, 0) for _ in x.shape[2:])))
        return jnp.moveaxis(x.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0)

    body = jax.checkpoint(lambda parts: function(*parts))
    values = jax.lax.map(body, tuple(cut(x) for x in arrays))
    return jnp.moveaxis(values, 0, 1).reshape(rows, -1)[:, :length]


def sample(
    log_p: Float[Array, "B L V"],
    keys: Key[Array, "B"],
    positions: Int[Array, "B L"],
    temperature: float,
) -> Int[Array, "B L"]:
    """Draws a token at every position (Gumbel-max), or takes the argmax at temperature 0.

    Args:
      log_p: from `log_probs`, at the temperature to draw at (at any one for temperature 0).
      keys: one a row.  A draw depends on the row's key and the position's number alone, not on
        the batch, nor on which positions are read together.
    """
    if temperature == 0:
        return jnp.argmax(log_p, axis=-1).astype(jnp.int32)
    of_position = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(keys, positions)
    # Flat: XLA's CPU backend takes ten times as long to compile the draw of a matrix.
    draw = jax.vmap(lambda key: jax.random.gumbel(key, log_p.shape[-1:], log_p.dtype))
    noise = draw(of_position.reshape(-1)).reshape(log_p.shape)
    return jnp.argmax(log_p + noise, axis=-1).astype(jnp.int32)


def read(
    policy: Policy,
    params: Params,
    hidden: Float[Array, "B L D"],
    wanted: Bool[Array, "B L"],
    open_: Bool[Array, "B L"],
    keys: Key[Array, "B"],
    settings: SamplerSettings,
) -> Readings:
    """Distributions at the positions that are wanted: a token of each, and what it is worth.

    Args:
      hidden: final hidden states that predict each position.
      open_: all masked positions of the state, wanted or not.
      keys: of this call, one a row.
    """
    length, gone = wanted.shape[1], end_of_text.suppressed(open_, settings.end)
    at = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), wanted.shape)

    def of(places: Int[Array, "B c"]) -> Readings:
        logits = policy.logits(params, jnp.take_along_axis(hidden, places[..., None], axis=1))
        there = jnp.take_along_axis(gone, places, axis=1)
        return _of_logits(policy.mask_id, logits, there, keys, places, settings)

    if not settings.chunk or settings.chunk >= length:
        logits = policy.logits(params, hidden)
        of_all = _of_logits(policy.mask_id, logits, gone, keys, at, settings)
        return jax.tree.map(lambda x: jnp.where(wanted, x, 0), of_all)

    # Each row's wanted positions first; as many chunks as the row with most of them needs.
    order = jnp.argsort(~wanted, axis=1, stable=True).astype(jnp.int32)
    order = jnp.pad(order, ((0, 0), (0, -length % settings.chunk)))
    most = jnp.max(jnp.sum(wanted, axis=1))

    def step(carry: tuple[Array, Readings]) -> tuple[Array, Readings]:
        start, readings = carry
        places = jax.lax.dynamic_slice_in_dim(order, start, settings.chunk, axis=1)
        new = of(places)
        # The rest of a row's last chunk is not wanted, and padding repeats position 0.
        count = jnp.sum(wanted, axis=1, keepdims=True)
        rank = start + jnp.arange(settings.chunk)
        target = jnp.where(rank < count, places, length)
        row = jnp.arange(wanted.shape[0])[:, None]
        write = lambda all_, some: all_.at[row, target].set(some, mode="drop")  # noqa: E731
        return start + settings.chunk, jax.tree.map(write, readings, new)

    kinds = jax.eval_shape(of, order[:, : settings.chunk])
    nothing = jax.tree.map(lambda x: jnp.zeros(wanted.shape, x.dtype), kinds)
    start = jnp.zeros((), most.dtype)
    _, readings = jax.lax.while_loop(lambda carry: carry[0] < most, step, (start, nothing))
    return readings


def _of_logits(
    mask_id: int,
    logits: Float[Array, "B c V"],
    gone: Bool[Array, "B c"],
    keys: Key[Array, "B"],
    positions: Int[Array, "B c"],
    settings: SamplerSettings,
) -> Readings:
    logits = end_of_text.mask_end_logits(logits, gone, settings.end)
    untempered = log_probs(logits, mask_id, 1.0)
    log_p = untempered
    if settings.temperature not in (0, 1):
        log_p = log_probs(logits, mask_id, settings.temperature)
    token = sample(log_p, _fold(keys, 0), positions, settings.temperature)
    h = entropy(untempered)
    error = _error(untempered, token, h, _fold(keys, 1), positions, settings.ranking)
    if settings.end.suppress == "last":
        error = jnp.where(end_of_text.is_end(token, settings.end), jnp.inf, error)
    return Readings(token, token_log_prob(log_p, token), h, error)


def _error(untempered, token, h, keys, positions, ranking: str) -> Float[Array, "B c"]:
    if ranking == "entropy":
        return h
    if ranking == "confidence":
        return -jnp.exp(jnp.max(untempered, axis=-1))
    if ranking == "margin":
        first, second = jnp.moveaxis(jnp.exp(jax.lax.top_k(untempered, 2)[0]), -1, 0)
        return second - first
    if ranking == "drawn":
        return -jnp.exp(token_log_prob(untempered, token))
    if ranking == "random":
        of_position = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(keys, positions)
        return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (), h.dtype)))(of_position)
    raise ValueError(f"unknown ranking: {ranking!r}")


def _fold(keys: Key[Array, "B"], number: int) -> Key[Array, "B"]:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
