"""A batch for a server: rows begin and end one by one, between calls, each with its own settings.

`continuous_batch` works through a queue that is known when its program starts.  A server gets
prompts at any time, so here every call is a program of its own, after which the host looks at the
rows, takes those that are done and puts new prompts into their slots.  The call is that of
`unmask`, and a row comes out as from there: its completion depends only on its prompt and its key.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Params, Prompts
from diffpo_jax.diffusion import thresholds, unmask
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.models.policy import Policy


class Requests(NamedTuple):
    """What the row in each slot is to write."""

    prompts: Prompts  # [B P]
    dial: Float[Array, "B"]  # γ in nats, or another rule's number; NaN for the learned γ
    scale: Float[Array, "B"]  # factor on the learned γ
    temperature: Float[Array, "B"]  # 0 takes the argmax
    seed: Int[Array, "B"]
    number: Int[Array, "B"]  # of the row among those with its seed, see `rng.row_keys`


class Slots(NamedTuple):
    """The rows that are being written; in a free slot is any row, for which no call is made."""

    requests: Requests
    rows: unmask.Unmasking
    cache: unmask.Cache | None


class Seen(NamedTuple):
    """What the host reads of rows after a call; fields as in `Rollout`."""

    tokens: Int[Array, "b L"]
    commit_call: Int[Array, "b L"]
    logprob: Float[Array, "b L"]
    entropy: Float[Array, "b L"]
    call: Int[Array, "b"]
    dial: Float[Array, "b"]  # in use
    learned: Float[Array, "b"]  # γ of the head for the prompt; NaN without one
    forced: Bool[Array, "b"]


def empty(
    policy: Policy, params: Params, settings: SamplerSettings, slots: int, prompt_length: int
) -> Slots:
    """Slots without a row."""
    shape = slots, prompt_length
    zeros = lambda dtype: jnp.zeros(slots, dtype)  # noqa: E731
    prompts = Prompts(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))
    requests = Requests(
        prompts,
        zeros(jnp.float32),
        zeros(jnp.float32),
        zeros(jnp.float32),
        zeros(jnp.int32),
        zeros(jnp.int32),
    )
    rows = unmask.start(policy, params, prompts, settings)
    cache = unmask.make_cache(policy, params, prompts, rows, settings)
    return Slots(requests, rows, cache)


def put(
    policy: Policy,
    params: Params,
    slots: Slots,
    new: Requests,
    taken: Bool[Array, "B"],
    settings: SamplerSettings,
) -> Slots:
    """Begins the rows of `new` in the slots that are `taken`; the others go on."""
    requests = _choose(taken, new, slots.requests)
    fresh = unmask.start(policy, params, requests.prompts, settings)
    fresh = fresh._replace(gamma=requests.dial)
    cache = slots.cache
    if cache is not None:  # it keeps its arrays; block -1 makes their rows due
        cache = cache._replace(block=jnp.where(taken, -1, cache.block))
    return Slots(requests, _choose(taken, fresh, slots.rows), cache)


def call(
    policy: Policy,
    params: Params,
    slots: Slots,
    places: Int[Array, "b"],
    settings: SamplerSettings,
    *,
    learns: bool,
) -> tuple[Slots, Seen]:
    """Makes one denoiser call for the rows in some of the slots.

    Args:
      places: slots, each at most once; B, one past the end, stands for none.  If they are as many
        as there are slots, rows in the other slots are called too, which costs nothing more.
      learns: whether γ may be the head's.  Otherwise every row has its dial from the start.
    """
    whole = places.shape[0] == slots.rows.call.shape[0]
    axes = Slots(*(jax.tree.map(lambda _: 0, part) for part in slots[:2]), _row_axes(slots.cache))

    def take(x: Array, axis: int) -> Array:
        return jnp.take(x, places, axis=axis, mode="clip")

    def put_back(x: Array, y: Array, axis: int) -> Array:
        where = (slice(None),) * axis
        return x.at[(*where, places)].set(y, mode="drop")

    # Caches are large: a whole batch is neither taken out nor put back.
    some = slots if whole else jax.tree.map(take, slots, axes)
    own = some.requests
    keys = jax.vmap(_key)(own.seed, own.number)
    threshold = thresholds.by_row(policy, own.dial, own.scale) if learns else None
    rows, cache = unmask.call(
        policy,
        params,
        own.prompts,
        some.rows,
        some.cache,
        threshold,
        keys,
        settings,
        own.temperature,
    )
    learned = jnp.full(rows.gamma.shape, jnp.nan, rows.gamma.dtype)
    if learns:
        learned = jnp.exp(policy.threshold(params, rows.features)[0]).astype(learned.dtype)
    seen = Seen(
        rows.tokens,
        rows.commit_call,
        rows.logprob,
        rows.entropy,
        rows.call,
        rows.gamma,
        learned,
        rows.forced,
    )
    new = some._replace(rows=rows, cache=cache)
    if whole:
        return new, jax.tree.map(lambda x: take(x, 0), seen)
    return jax.tree.map(put_back, slots, new, axes), seen


def _key(seed: Int[Array, ""], number: Int[Array, ""]) -> Array:
    """The key that `generate` has for this row with this `config.seed`."""
    return jax.random.fold_in(rng.key_for(seed, "evaluate"), number)


def _row_axes(cache: unmask.Cache | None):
    """The axis of rows in each array of a cache: keys and values have layers before it."""
    if cache is None:
        return None
    axes = jax.tree.map(lambda _: 0, cache)
    return axes._replace(kv=jax.tree.map(lambda _: 1, cache.kv))


def _choose(taken: Bool[Array, "B"], new, old):
    def choose(x: Shaped[Array, "B ..."], y: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
        return jnp.where(taken.reshape(taken.shape + (1,) * (x.ndim - 1)), x, y)

    return jax.tree.map(choose, new, old)
