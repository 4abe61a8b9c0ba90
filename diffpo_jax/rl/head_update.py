"""The update of the head by state (docs/method.md, section 5b; beyond the paper).

A rollout's reward says little about each of its calls.  Two things make it say more.  The states
of a group are compared with the group's solved completions, which tells for every k whether the
first k tokens were right, not only for the k that was taken (`hindsight`).  And what the head
expects, Q(s, k), is taken off the return, so that only the surprise is left (`policy_objective`).

    right    cross-entropy of "this position is in a solved completion as well", at every position
             as far as those before it are in one
    lasting  cross-entropy of "the task is solved, given that the first k are", at the k taken
    calls    squared error of the calls that followed
    policy   clipped ratio times the surprise, plus Σ_k π(k | s) Q(s, k), plus entropy

The denoiser takes no part: what the head saw of each call is in the rollouts' record.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from diffpo_jax.arrays.types import Choices, Metrics, Observation, Params, Rollout
from diffpo_jax.config import HeadUpdateConfig
from diffpo_jax.diffusion import commit, commit_policy
from diffpo_jax.models import state_head
from diffpo_jax.models.policy import Policy


class Decisions(NamedTuple):
    """Decisions with what became of them, of n calls."""

    seen: Observation
    count: Int[Array, "n"]  # k
    logprob: Float[Array, "n"]  # log π_old(k | s)
    weight: Float[Array, "n"]  # calls that each stands for; 0 for none
    best: Float[Array, "n"]  # of `hindsight`, at k = 0
    right: Float[Array, "n c"]  # at k = 1 ... c
    reward: Float[Array, "n"]  # of the rollout, over the largest
    later: Float[Array, "n"]  # calls after this one


HeadUpdate = Callable[..., tuple[Params, Any, Metrics]]


def hindsight(
    choices: Choices,
    rollout: Rollout,
    reward: Float[Array, "B"],
    group: int,
    block_length: int,
) -> tuple[Float[Array, "B R c"], Float[Array, "B R"]]:
    """The best reward of the group's completions that agree with the first k tokens of each call.

    A completion agrees if it has the same tokens wherever the state had some, and at the first k
    positions in their order.  The reward is 0 if none agrees, although one that the group did not
    find may exist: these labels are never too high, and the more often too low the smaller the
    group.

    Args:
      reward: at least 0.
      group: G; the rollouts of a prompt are consecutive.

    Returns:
      The labels, at k = 1 ... c; and the same at k = 0, the best reward of the completions that
      agree with the state.  Where that is 0 nothing is known, and nothing is to be decided.
    """
    length = rollout.tokens.shape[1]
    by_prompt = rollout.tokens.reshape(-1, group, length)
    found = jnp.repeat(by_prompt, group, axis=0)  # [B G L]
    rewards = jnp.repeat(reward.reshape(-1, group), group, axis=0)  # [B G]
    # 1. Which completions have the state's tokens.
    committed = rollout.commit_call[:, None] < choices.call[..., None]  # [B R L]
    same = rollout.tokens[:, None] == found  # [B G L]
    agrees = jnp.all(~committed[:, :, None] | same[:, None], axis=-1)  # [B R G]
    best = jnp.max(jnp.where(agrees, rewards[:, None], 0.0), axis=-1)
    # 2. Which have the next tokens too.
    offset = commit.offset_column(rollout.offset)
    block = (jnp.argmax(~committed, axis=-1) + offset) // block_length
    place = (block * block_length - offset)[..., None] + choices.seen.place  # [B R c]
    at_places = jax.vmap(lambda texts, p: texts[:, p])(found, place)  # [B G R c]
    next_ = jnp.moveaxis(at_places, 1, 2) == choices.token[:, :, None]  # [B R G c]
    agrees = agrees[..., None] & (jnp.cumsum(~next_, axis=-1) == 0)
    return jnp.max(jnp.where(agrees, rewards[:, None, :, None], 0.0), axis=2), best


def decisions(
    rollout: Rollout,
    right: Float[Array, "B R c"],
    best: Float[Array, "B R"],
    reward: Float[Array, "B"],
) -> Decisions:
    """The decisions of a batch, B R of them, in which absent ones weigh 0.

    Of N calls R are recorded, drawn whatever happened in them, so each stands for N / R.
    """
    choices = rollout.choices
    recorded = jnp.sum(choices.count > 0, axis=1)
    made = jnp.maximum(rollout.nfe - rollout.forced, recorded)  # the cap's own call decides nothing
    share = made / jnp.maximum(recorded, 1)
    weight = jnp.where(choices.count > 0, share[:, None], 0.0)
    later = rollout.nfe[:, None] - choices.call
    whole = Decisions(
        seen=choices.seen,
        count=choices.count,
        logprob=choices.logprob,
        weight=weight,
        right=right,
        best=best,
        reward=jnp.broadcast_to(reward[:, None], weight.shape),
        later=later.astype(jnp.float32),
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), whole)


def policy_objective(
    judged: state_head.Judgement, made: Decisions, config: HeadUpdateConfig
) -> tuple[Float[Array, "n"], Metrics]:
    """The policy's part of the objective for each decision.

    With Q as a control variate the gradient is unbiased whatever Q is: what Σ_k π(k) Q(s, k) adds
    to it, the expectation of −Q(s, k) ∇ log π(k) takes away.
    """
    price, valid = made.seen.price, made.seen.open & jnp.isfinite(judged.logits)
    log_pi = jax.nn.log_softmax(judged.logits, axis=-1)
    pi, log_pi = jnp.exp(log_pi), jnp.where(valid, log_pi, 0.0)
    expected = jnp.where(valid, state_head.expected_return(judged, price), 0.0)
    expected = jax.lax.stop_gradient(expected)
    actual = made.reward - price * (1 + made.later)
    surprise = actual - _at(expected, made.count)
    log_ratio = commit_policy.log_prob(judged.logits, jnp.maximum(made.count, 1)) - made.logprob
    ratio = jnp.exp(log_ratio)
    bounded = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    taken = jnp.minimum(ratio * surprise, bounded * surprise)
    # A call costs λ; dividing by it would let the prompts with a low price, whose returns vary
    # as much as all others, drown the rest.  The root is our choice between.
    scale = jax.lax.rsqrt(price + 0.02)
    entropy = -jnp.sum(pi * log_pi, axis=-1)
    value = scale * (taken + jnp.sum(pi * expected, axis=-1)) + config.entropy * entropy
    clipped = (ratio != bounded) & (ratio * surprise > bounded * surprise)
    w, total = made.weight, jnp.sum(made.weight)
    metrics = {
        "head/entropy": (jnp.sum(w * entropy), total),
        "head/surprise": (jnp.sum(w * surprise), total),
        "head/surprise_square": (jnp.sum(w * surprise**2), total),
        "clip/head": (jnp.sum(w * clipped), total),
        "head/k": (jnp.sum(w * made.count), total),
    }
    return value, metrics


def loss(
    judged: state_head.Judgement, made: Decisions, config: HeadUpdateConfig
) -> tuple[Float[Array, ""], Metrics]:
    """What the head minimises, a mean over decisions, and its metrics."""
    valid, w = made.seen.open, made.weight
    total = jnp.maximum(jnp.sum(w), 1e-6)
    cross = optax.sigmoid_binary_cross_entropy
    # Each position in turn, as far as those before it are right.
    before = jnp.concatenate([made.best[:, None], made.right[:, :-1]], axis=1)
    known = jnp.where(valid, before, 0.0)
    share = made.right / jnp.maximum(before, 1e-6)
    right = jnp.sum(known * cross(judged.now, share), axis=1)
    # P(solved) = P(right) P(lasting); the first factor learns from hindsight alone.
    fixed = jax.lax.stop_gradient(_at(judged.right, made.count))
    log_solved = jnp.minimum(fixed + _at(judged.lasting, made.count), -1e-5)
    failed = jnp.log1p(-jnp.exp(log_solved))
    lasting = -made.reward * log_solved - (1 - made.reward) * failed
    calls = (_at(judged.calls, made.count) - made.later) ** 2
    policy, metrics = policy_objective(judged, made, config)
    each = config.hindsight_weight * right + lasting + config.calls_weight * calls
    each = each - config.policy_weight * policy
    positions = jnp.sum(w[:, None] * known)
    metrics |= {
        "head/right_loss": (jnp.sum(w * right), positions),
        "head/lasting_loss": (jnp.sum(w * lasting), total),
        "head/calls_error": (jnp.sum(w * calls), total),
    }
    return jnp.sum(w * each) / total, metrics


def make_head_update(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    config: HeadUpdateConfig,
    *,
    group: int,
    block_length: int,
    place: Callable[[Any], Any] = lambda tree: tree,
) -> HeadUpdate:
    """Builds update(head, opt_state, rollout, reward, key, rate) -> (head, opt_state, metrics).

    It takes `config.minibatches` steps, each on `config.minibatch` decisions.  They go through the
    batch's decisions in a random order, and begin again if there are fewer.

    Args:
      group: G.
      place: says where the arrays of a minibatch lie on a mesh.
    """

    def update(
        head: Params,
        opt_state: Any,
        rollout: Rollout,
        reward: Float[Array, "B"],
        key: Key[Array, ""],
        rate: Float[Array, ""] | float = 1.0,
    ) -> tuple[Params, Any, Metrics]:
        labels = hindsight(rollout.choices, rollout, reward, group, block_length)
        made = decisions(rollout, *labels, reward)
        order = _random_order(key, made.weight > 0, config.minibatches * config.minibatch)

        def step(carry: tuple[Params, Any], chosen: Int[Array, "n"]) -> tuple[Any, Metrics]:
            head, opt_state = carry
            part = place(jax.tree.map(lambda x: x[chosen], made))

            def value(head: Params) -> tuple[Array, Metrics]:
                return loss(policy.judge({"state_head": head}, part.seen), part, config)

            gradient, metrics = jax.grad(value, has_aux=True)(head)
            norm = optax.tree.norm(gradient)
            metrics["grad_norm/state_head"] = norm, jnp.ones_like(norm)
            updates, opt_state = optimizer.update(gradient, opt_state, head)
            updates = jax.tree.map(lambda x: rate * x, updates)
            return (optax.apply_updates(head, updates), opt_state), metrics

        order = order.reshape(config.minibatches, config.minibatch)
        (head, opt_state), metrics = jax.lax.scan(step, (head, opt_state), order)
        return head, opt_state, jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)

    return update


def _random_order(key: Key[Array, ""], wanted: Bool[Array, "n"], size: int) -> Int[Array, "m"]:
    """`size` indices of wanted entries, all of them in a random order, over and over."""
    numbers = jax.random.uniform(key, wanted.shape)
    order = jnp.argsort(jnp.where(wanted, numbers, 2.0))
    return order[jnp.arange(size) % jnp.maximum(jnp.sum(wanted), 1)]


def _at(values: Float[Array, "n c"], count: Int[Array, "n"]) -> Float[Array, "n"]:
    """The values at k."""
    return jnp.take_along_axis(values, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
