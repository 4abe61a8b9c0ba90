"""The token distribution: log-probabilities, entropies and draws.

The sampler and the scorer get their log-probabilities from one function, at one temperature, so
that the ratio of the two is 1 before any update.

`read` reads a denoiser call at the positions that may be committed.  With vocabularies of 10^5
tokens its arrays over the vocabulary are the largest of all, so it can take a few positions of each
row at a time.
"""

import math
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
    """What a call gives at each position; zeros at positions that were not read.

    `logprob` is the token's at the temperature of the draw; at temperature 0 nothing is drawn, and
    it is taken at temperature 1.  `entropy` and `error` are always those of the untempered
    distribution: tempered entropies vanish with T.
    """

    token: Int[Array, "*N"]
    logprob: Float[Array, "*N"]
    entropy: Float[Array, "*N"]  # nats
    error: Float[Array, "*N"]  # the lower, the sooner the position is committed
    best: Int[Array, "*N"] | None = None  # the most probable token, for the head by state


def log_probs(
    logits: Float[Array, "*N V"],
    mask_id: int,
    temperature: float | Float[Array, "..."],
    keep_mask: bool = False,
) -> Float[Array, "*N V"]:
    """log softmax(logits / T) with the mask token removed (its entry is -inf).

    Args:
      temperature: T > 0, one or an array that broadcasts against the logits.
      keep_mask: keep the mask token in the distribution, as d1's scoring does.
    """
    if keep_mask:
        return jax.nn.log_softmax(logits / temperature, axis=-1)
    is_mask = jnp.arange(logits.shape[-1]) == mask_id
    return jax.nn.log_softmax(jnp.where(is_mask, -jnp.inf, logits / temperature), axis=-1)


def token_log_prob(log_p: Float[Array, "*N V"], tokens: Int[Array, "*N"]) -> Float[Array, "*N"]:
    """The log-probability of each token."""
    return jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]


def entropy(log_p: Float[Array, "*N V"]) -> Float[Array, "*N"]:
    """Entropy in nats; entries of -inf add nothing to the value and to the gradient."""
    # Double where: p log p at p = 0 is 0, but the gradient of log is not finite there.
    finite = jnp.where(jnp.isfinite(log_p), log_p, 0.0)
    p = jnp.where(jnp.isfinite(log_p), jnp.exp(finite), 0.0)
    return jnp.maximum(-jnp.sum(p * finite, axis=-1), 0.0)


def map_positions(
    function: Callable[..., Float[Array, "B c ..."]],
    chunk: int | None,
    *arrays: Shaped[Array, "B L ..."],
) -> Float[Array, "B L ..."]:
    """Computes function(*arrays) for `chunk` positions of each row at a time, to save memory.

    Chunks are recomputed in the backward pass, which then holds one at a time too.

    Args:
      function: maps the arrays at c positions of each row to values of each position.
      chunk: c; None for all L at once.
    """
    rows, length = arrays[0].shape[:2]
    if not chunk or chunk >= length:
        return function(*arrays)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, -length % chunk), *((0, 0) for _ in x.shape[2:])))
        return jnp.moveaxis(x.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0)

    body = jax.checkpoint(lambda parts: function(*parts))
    values = jax.lax.map(body, tuple(cut(x) for x in arrays))
    return jnp.moveaxis(values, 0, 1).reshape(rows, -1, *values.shape[3:])[:, :length]


def sample(
    log_p: Float[Array, "B c V"], u: Float[Array, "B c 2"], temperature: float
) -> Int[Array, "B c"]:
    """Draws a token at every position, or takes the argmax at temperature 0.

    The draw inverts the cumulated probabilities twice: over parts of about √V tokens, and within
    the part.  It takes two uniform numbers a position, where Gumbel-max takes V.  Besides the time,
    float32's Gumbel numbers reach only 16, so Gumbel-max draws unlikely tokens too seldom.

    Args:
      log_p: result of `log_probs` at this temperature (at any temperature, if this is 0).
      u: uniform on [0, 1).
    """
    if temperature == 0:
        return jnp.argmax(log_p, axis=-1).astype(jnp.int32)
    vocab = log_p.shape[-1]
    size = _part_size(vocab)
    padded = jnp.pad(log_p, ((0, 0), (0, 0), (0, -vocab % size)), constant_values=-jnp.inf)
    parts = jnp.exp(padded).reshape(*u.shape[:-1], -1, size)
    part = invert_cumulated(jnp.sum(parts, axis=-1), u[..., 0])
    within = part[..., None] * size + jnp.arange(size)
    inside = jnp.take_along_axis(log_p, jnp.minimum(within, vocab - 1), axis=-1)
    weights = jnp.where(within < vocab, jnp.exp(inside), 0.0)
    token = part * size + invert_cumulated(weights, u[..., 1])
    return jnp.minimum(token, vocab - 1)  # beyond it only if every weight is NaN


def invert_cumulated(weights: Float[Array, "*N n"], u: Float[Array, "*N"]) -> Int[Array, "*N"]:
    """The first index at which the cumulated weights pass a share u of their sum.

    With u uniform on [0, 1) an index is drawn in proportion to its weight.  An index of weight 0 is
    never returned unless all weights are 0 or NaN, then it is the last one.
    """
    sums = jnp.cumsum(weights, axis=-1)
    # Sums that were added up in another order need not rise, so the weight is looked at too.
    passed = (sums > u[..., None] * sums[..., -1:]) & (weights > 0)
    last = weights.shape[-1] - 1 - jnp.argmax((weights > 0)[..., ::-1], axis=-1)
    index = jnp.where(jnp.any(passed, axis=-1), jnp.argmax(passed, axis=-1), last)
    return index.astype(jnp.int32)


def _part_size(vocab: int) -> int:
    """Tokens of a part: a divisor of V near its root, or the root itself if there is none."""
    root = math.isqrt(vocab)
    divisor = max(n for n in range(1, root + 1) if vocab % n == 0)
    return divisor if divisor > root // 4 else root


def read(
    policy: Policy,
    params: Params,
    hidden: Float[Array, "B L D"],
    wanted: Bool[Array, "B L"],
    open_: Bool[Array, "B L"],
    keys: Key[Array, "B"],
    settings: SamplerSettings,
    temperature: Float[Array, "B"] | None = None,
) -> Readings:
    """Draws a token at each wanted position, and reads what the commit rules need of it.

    Args:
      hidden: final hidden states that predict each position.
      open_: all masked positions of the state, wanted or not.
      keys: the keys of this call, one per row.
      temperature: of each row, in place of the one of the settings; 0 takes the argmax.
    """
    length, suppressed = wanted.shape[1], end_of_text.suppressed(open_, settings.end)
    # Numbers of all positions, so that a draw depends only on the row's key and the position, not
    # on the batch, nor on which positions are read together: two for the token, one for its rank.
    u = jax.vmap(lambda key: jax.random.uniform(key, (length, 3)))(keys)

    def read_at(places: Int[Array, "B c"]) -> Readings:
        logits = policy.logits(params, jnp.take_along_axis(hidden, places[..., None], axis=1))
        masked = jnp.take_along_axis(suppressed, places, axis=1)
        numbers = jnp.take_along_axis(u, places[..., None], axis=1)
        return _read_logits(policy.mask_id, logits, masked, numbers, settings, temperature)

    if not settings.chunk or settings.chunk >= length:
        logits = policy.logits(params, hidden)
        readings = _read_logits(policy.mask_id, logits, suppressed, u, settings, temperature)
        return jax.tree.map(lambda x: jnp.where(wanted, x, 0), readings)

    # Each row's wanted positions first; as many chunks as the row with most of them needs.
    order = jnp.argsort(~wanted, axis=1, stable=True).astype(jnp.int32)
    order = jnp.pad(order, ((0, 0), (0, -length % settings.chunk)))
    most = jnp.max(jnp.sum(wanted, axis=1))

    def step(carry: tuple[Array, Readings]) -> tuple[Array, Readings]:
        start, readings = carry
        places = jax.lax.dynamic_slice_in_dim(order, start, settings.chunk, axis=1)
        new = read_at(places)
        # The rest of a row's last chunk is not wanted, and padding repeats position 0: both are
        # written to position L, which is out of bounds and dropped.
        count = jnp.sum(wanted, axis=1, keepdims=True)
        rank = start + jnp.arange(settings.chunk)
        target = jnp.where(rank < count, places, length)
        row = jnp.arange(wanted.shape[0])[:, None]
        write = lambda all_, some: all_.at[row, target].set(some, mode="drop")  # noqa: E731
        return start + settings.chunk, jax.tree.map(write, readings, new)

    kinds = jax.eval_shape(read_at, order[:, : settings.chunk])
    nothing = jax.tree.map(lambda x: jnp.zeros(wanted.shape, x.dtype), kinds)
    start = jnp.zeros((), most.dtype)
    _, readings = jax.lax.while_loop(lambda carry: carry[0] < most, step, (start, nothing))
    return readings


def _read_logits(
    mask_id: int,
    logits: Float[Array, "B c V"],
    suppressed: Bool[Array, "B c"],
    u: Float[Array, "B c 3"],
    settings: SamplerSettings,
    temperature: Float[Array, "B"] | None,
) -> Readings:
    logits = end_of_text.mask_end_logits(logits, suppressed, settings.end)
    untempered = log_probs(logits, mask_id, 1.0)
    log_p = untempered
    if temperature is not None:
        token, log_p = _draw_by_row(logits, untempered, mask_id, u[..., :2], temperature)
    else:
        if settings.temperature not in (0, 1):
            log_p = log_probs(logits, mask_id, settings.temperature)
        token = sample(log_p, u[..., :2], settings.temperature)
    h = entropy(untempered)
    error = _error(untempered, token, h, u[..., 2], settings.ranking)
    if settings.end.suppress == "last":
        error = jnp.where(end_of_text.is_end(token, settings.end), jnp.inf, error)
    best = None
    if settings.rule.name == "state":
        greedy = temperature is None and settings.temperature == 0
        best = token if greedy else jnp.argmax(untempered, axis=-1).astype(jnp.int32)
    return Readings(token, token_log_prob(log_p, token), h, error, best)


def _draw_by_row(
    logits: Float[Array, "B c V"],
    untempered: Float[Array, "B c V"],
    mask_id: int,
    u: Float[Array, "B c 2"],
    temperature: Float[Array, "B"],
) -> tuple[Int[Array, "B c"], Float[Array, "B c V"]]:
    """Each row's tokens at its own temperature, and the log-probabilities they were drawn from."""
    greedy = temperature == 0
    by_row = jnp.where(greedy, 1, temperature)[:, None, None].astype(logits.dtype)
    log_p = log_probs(logits, mask_id, by_row)
    argmax = sample(untempered, u, 0.0)
    return jnp.where(greedy[:, None], argmax, sample(log_p, u, 1.0)), log_p


def _error(
    untempered: Float[Array, "B c V"],
    token: Int[Array, "B c"],
    h: Float[Array, "B c"],
    u: Float[Array, "B c"],
    ranking: str,
) -> Float[Array, "B c"]:
    """The error proxy by which positions are ranked, see `SamplerSettings.ranking`."""
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
        return u
    raise ValueError(f"unknown ranking: {ranking!r}")
