"""How many positions a call commits, drawn from the head by state (docs/method.md, section 5b).

Before call n the open positions of the block are ordered by their error.  The head reads the call's
own outputs and gives π(k | s_n, λ), and the call commits the first k.  Given the state the order is
fixed, so the probability of a rollout is exactly Π_n π(k_n | s_n, λ) · Π_k p(o_k | c, z_{t(k)−1}).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from diffpo_jax.arrays.types import Choices, Observation, Params
from diffpo_jax.diffusion import commit
from diffpo_jax.diffusion.token_distribution import Readings
from diffpo_jax.models.policy import Policy


def observe(
    policy: Policy,
    params: Params,
    hidden: Float[Array, "B L D"],
    readings: Readings,
    allowed: Bool[Array, "B L"],
    price: Float[Array, "B"],
    block_length: int,
    offset: Int[Array, "B"] | None = None,
) -> Observation:
    """What the head reads of a call: the block's positions in the order of their error.

    Args:
      price: of a call, in units of the largest reward.
      offset: prompt tokens in the first block; None for none.
    """
    order = _block_order(readings, allowed, block_length)
    take = lambda x: jnp.take_along_axis(x, order, axis=1)  # noqa: E731
    states = jnp.take_along_axis(hidden, order[..., None], axis=1)
    logits = policy.token_logits(params, states, take(readings.best))
    own = jnp.diagonal(logits, axis1=1, axis2=2)[..., None]
    clash = jnp.exp(jnp.minimum(logits - own, 0.0))
    seen = Observation(
        hidden=states,
        entropy=take(readings.entropy),
        clash=clash,
        place=((order + commit.offset_column(offset)) % block_length).astype(jnp.int32),
        open=take(allowed),
        price=price,
    )
    return jax.tree.map(jax.lax.stop_gradient, seen)


def in_order(
    x: Shaped[Array, "B L"], readings: Readings, allowed: Bool[Array, "B L"], block_length: int
) -> Shaped[Array, "B c"]:
    """What a row has at the positions of its block, in the order of their error."""
    return jnp.take_along_axis(x, _block_order(readings, allowed, block_length), axis=1)


def _block_order(
    readings: Readings, allowed: Bool[Array, "B L"], block_length: int
) -> Int[Array, "B c"]:
    """The positions of each row's block in the order of their error, open ones first."""
    return commit.by_error(readings.error, allowed)[:, :block_length]


def decide(
    policy: Policy, params: Params, seen: Observation, keys: Key[Array, "B"] | None
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """How many positions each row commits, and the log-probability of that.

    Args:
      keys: None for the most probable number.
    """
    logits = policy.judge(params, seen).logits
    if keys is None:
        chosen = jnp.argmax(logits, axis=-1)
    else:
        chosen = jax.vmap(jax.random.categorical)(keys, logits)
    return chosen.astype(jnp.int32) + 1, log_prob(logits, chosen + 1)


def log_prob(logits: Float[Array, "B c"], count: Int[Array, "B"]) -> Float[Array, "B"]:
    """log π(k | s) of these numbers."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(log_p, count[..., None] - 1, axis=-1)[..., 0]


def record(
    choices: Choices,
    seen: Observation,
    count: Int[Array, "B"],
    logprob: Float[Array, "B"],
    number: Int[Array, "B"],
    made: Bool[Array, "B"],
    token: Int[Array, "B c"],
    keys: Key[Array, "B"],
) -> Choices:
    """The record with a call added, of which R per row are kept, drawn uniformly (reservoir).

    Call n replaces one of the R with probability R / n, whatever was seen and done in it, so that
    a sum over N calls is estimated by N / R times that over the record.

    Args:
      number: n, from 1.
      made: rows that decided something in this call.
      token: drawn at each position of `seen`.
      keys: of this call.
    """
    size = choices.count.shape[1]
    slot = jax.vmap(lambda key, n: jax.random.randint(jax.random.fold_in(key, 1), (), 0, n))(
        keys, jnp.maximum(number, 1)
    )
    slot = jnp.where(number <= size, number - 1, slot)  # beyond R: dropped
    slot = jnp.where(made, slot, size)
    rows = jnp.arange(slot.shape[0])
    new = Choices(seen, count, logprob, number, token)
    return jax.tree.map(lambda all_, x: all_.at[rows, slot].set(x, mode="drop"), choices, new)
