"""The head by state: how many positions a call commits, judged from the call's own outputs.

It is beyond the paper; the architecture is our choice.  A call writes several tokens at once, each
drawn as if the others were unknown.  What goes wrong is that two of them exclude each other, most
often because both positions would write the same token.  Hidden states and entropies describe each
position by itself and hardly tell (docs/method.md, section 5b).  So the head reads for every pair
of positions how probable the one's token is at the other (`Observation.clash`), times a weight
that is learned for this pair of places.  A small network by position does the rest.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffpo_jax.arrays.types import Observation
from diffpo_jax.config import StateHeadConfig

_LEAST = 1e-5  # nats or price; keeps logarithms finite
_SURE = 3.0  # start of the logits: a position is right, and the task is solved


class Judgement(NamedTuple):
    """What the head thinks of committing the first k = 1 ... c positions of each row.

    Positions are judged one by one: the k-th is right if it is committed now, given that those
    before it are (`now`), or if it is committed in a later call (`later`).  So neighbouring k
    differ by one factor, which can be learned far more finely than each k's value by itself.
    """

    logits: Float[Array, "B c"]  # of the policy π(k | s, λ); -inf where k cannot be
    now: Float[Array, "B c"]  # logit that a solved completion has it too, given those before it
    right: Float[Array, "B c"]  # log-probability that a solved completion has the first k
    lasting: Float[Array, "B c"]  # log-probability that the task is solved, given that
    calls: Float[Array, "B c"]  # calls that follow this one

    @property
    def solved(self) -> Float[Array, "B c"]:
        """The probability that the task is solved."""
        return jnp.exp(self.right + self.lasting)


def expected_return(judged: Judgement, price: Float[Array, "B"]) -> Float[Array, "B c"]:
    """Q(s, k) = P(solved) − λ (1 + the calls that follow), in units of the largest reward."""
    return judged.solved - price[:, None] * (1 + judged.calls)


class StateHead(nn.Module):
    """Maps an observation to a `Judgement`.

        P(right_k) = Π_{j ≤ k} σ(now_j)
        P(solved | right_k) = σ(alive) Π_{j > k} σ(later_j)
        calls_k = Σ_{j > k} softplus(calls_j)

    The policy is a softmax over Q(s, k) / τ plus a correction that the policy gradient learns.  No
    gradient of the policy reaches Q, which learns from what happened.  τ = `temperature` · λ + a
    small constant.  Rows without an open position get the logit 0 for k = 1.

    Attributes:
      places: positions of a block.
    """

    config: StateHeadConfig
    places: int

    @nn.compact
    def __call__(self, seen: Observation) -> Judgement:
        c, valid = self.config, seen.open
        x = nn.relu(self._embed(seen))
        x = nn.relu(nn.Dense(c.width, name="second")(x))
        small = nn.initializers.normal(0.02)
        out = nn.Dense(4, kernel_init=small, name="out")(x)
        now, later, calls, more = jnp.moveaxis(out, -1, 0)
        mean = jnp.sum(jnp.where(valid[..., None], x, 0.0), axis=1)
        mean = mean / jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True), 1)
        alive = nn.Dense(1, kernel_init=small, name="alive")(mean)
        now, later = now + _SURE, later + _SURE

        def after(x: Float[Array, "B c"]) -> Float[Array, "B c"]:
            """The sum over the open positions after each k."""
            x = jnp.where(valid, x, 0.0)
            return jnp.sum(x, axis=-1, keepdims=True) - jnp.cumsum(x, axis=-1)

        judged = Judgement(
            logits=more,
            now=now,
            right=jnp.cumsum(jnp.where(valid, nn.log_sigmoid(now), 0.0), axis=-1),
            lasting=nn.log_sigmoid(alive + _SURE) + after(nn.log_sigmoid(later)),
            calls=after(nn.softplus(calls)),
        )
        q = jax.lax.stop_gradient(expected_return(judged, seen.price))
        logits = q / (c.temperature * seen.price + c.least_temperature)[:, None] + more
        first = jnp.arange(self.places)[: valid.shape[-1]] == 0
        none = ~jnp.any(valid, axis=-1, keepdims=True)
        valid = valid & (first | (seen.price > 0)[:, None])
        logits = jnp.where(valid, logits, jnp.where(none & first, 0.0, -jnp.inf))
        return judged._replace(logits=logits)

    def _embed(self, seen: Observation) -> Float[Array, "B c W"]:
        size, valid = seen.open.shape[-1], seen.open
        entropy = jnp.where(valid, seen.entropy, 0.0)
        total = jnp.cumsum(entropy, axis=-1)
        share = jnp.mean(valid, axis=-1, keepdims=True, dtype=entropy.dtype)
        price = jnp.log(seen.price + _LEAST)[:, None] / 3
        rank = jnp.arange(size, dtype=entropy.dtype) / self.places
        logs = [jnp.log(x + _LEAST) / 5 for x in (entropy, total)]
        same = [jnp.broadcast_to(x, valid.shape) for x in (share, price, rank)]
        numbers = jnp.stack([entropy, total, *logs, valid.astype(entropy.dtype), *same], axis=-1)
        numbers = jnp.concatenate([numbers, self._pairs(seen)], axis=-1)
        x = nn.Dense(self.config.width, name="numbers")(numbers)
        if not self.config.hidden:
            return x
        hidden = jnp.where(valid[..., None], seen.hidden.astype(x.dtype), 0.0)
        return x + nn.Dense(self.config.width, name="hidden")(nn.LayerNorm()(hidden))

    def _pairs(self, seen: Observation) -> Float[Array, "B c f"]:
        """Clashes of each position with those before it, within its prefix, and with all."""
        channels, valid = self.config.pairs, seen.open
        if not channels:
            return jnp.zeros((*valid.shape, 0))
        shape = (self.places, self.places, 2 * channels)
        weight = self.param("pair", nn.initializers.normal(0.1), shape)
        weight = _of_pairs(weight, seen.place)
        both = valid[:, :, None] & valid[:, None, :]
        clash = jnp.where(both, seen.clash, 0.0)[..., None]
        # The token of the one at the other, and the other way round.
        own = clash * weight[..., :channels]
        others = jnp.swapaxes(clash, 1, 2) * weight[..., channels:]
        terms = jnp.concatenate([own, others], axis=-1)
        before = jnp.tril(jnp.ones(clash.shape[1:3], bool), -1)[None, :, :, None]
        earlier = jnp.sum(jnp.where(before, terms, 0.0), axis=2)
        return jnp.concatenate(
            [earlier, jnp.cumsum(earlier, axis=1), jnp.sum(terms, axis=2)], axis=-1
        )


def _of_pairs(table: Float[Array, "p p f"], place: Int[Array, "B c"]) -> Float[Array, "B c c f"]:
    return table[place[:, :, None], place[:, None, :]]


def init(head: StateHead, key: jax.Array, width: int) -> dict:
    """Parameters of a head that reads hidden states of this width."""
    one = jnp.zeros((1, 2))
    seen = Observation(
        hidden=jnp.zeros((1, 2, width)),
        entropy=one,
        clash=jnp.zeros((1, 2, 2)),
        place=one.astype(jnp.int32),
        open=one == 0,
        price=jnp.ones(1),
    )
    return head.init(key, seen)["params"]
