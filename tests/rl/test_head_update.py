"""The update of the head by state: hindsight, weights of decisions, and the policy's gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from diffpo_jax.arrays.types import Choices, Observation, Rollout
from diffpo_jax.config import HeadUpdateConfig
from diffpo_jax.diffusion import sampler
from diffpo_jax.diffusion.settings import Rule, SamplerSettings
from diffpo_jax.models import state_head
from diffpo_jax.models.state_head import Judgement
from diffpo_jax.rl import head_update

CONFIG = HeadUpdateConfig(entropy=0.0, clip=1e6)


def some_choices(rng, rows, calls, size, length, vocab):
    """A record of random states: blocks of `size`, and the tokens that each call would write."""
    commit_call = np.zeros((rows, length), int)
    record = {name: np.zeros((rows, calls), int) for name in ("count", "call")}
    place = np.zeros((rows, calls, size), int)
    open_ = np.zeros((rows, calls, size), bool)
    token = rng.integers(vocab, size=(rows, calls, size))
    tokens = np.zeros((rows, length), int)
    for b in range(rows):
        for n in range(calls):
            left = [p for p in range(length) if not commit_call[b, p]]
            if not left:
                break
            block = left[0] // size
            mine = rng.permutation([p for p in left if p // size == block])
            rest = [p for p in range(block * size, (block + 1) * size) if p not in mine]
            place[b, n] = np.array([*mine, *rest]) % size
            open_[b, n] = np.arange(size) < len(mine)
            k = len(mine) if n == calls - 1 else rng.integers(1, len(mine) + 1)
            record["count"][b, n], record["call"][b, n] = k, n + 1
            for i in range(k):
                commit_call[b, mine[i]], tokens[b, mine[i]] = n + 1, token[b, n, i]
    shape = (rows, calls, size)
    seen = Observation(
        jnp.zeros((*shape, 1)),
        jnp.zeros(shape),
        jnp.zeros((*shape, size)),
        jnp.asarray(place),
        jnp.asarray(open_),
        jnp.ones(shape[:2]),
    )
    choices = Choices(
        seen,
        jnp.asarray(record["count"]),
        jnp.zeros(shape[:2]),
        jnp.asarray(record["call"]),
        jnp.asarray(token),
    )
    return choices, tokens, np.where(commit_call, commit_call, calls + 1)


def as_rollout(tokens, commit_call, nfe, choices=None):
    zeros, row = jnp.zeros(tokens.shape), jnp.zeros(len(tokens))
    return Rollout(
        jnp.asarray(tokens),
        jnp.asarray(commit_call),
        zeros == 0,
        zeros,
        zeros,
        jnp.asarray(nfe),
        row,
        row,
        row > 0,
        zeros,
        choices,
    )


@pytest.mark.parametrize("size", [6, 3])
def test_hindsight_is_the_best_reward_of_completions_that_agree(size):
    rng, rows, calls, length, group = np.random.default_rng(size), 24, 4, 6, 4
    choices, tokens, commit_call = some_choices(rng, rows, calls, size, length, vocab=2)
    reward = rng.choice([0.0, 0.5, 1.0], size=rows)
    rollout = as_rollout(tokens, commit_call, np.full(rows, calls))
    got, best = head_update.hindsight(choices, rollout, jnp.asarray(reward), group, size)
    positive = 0
    for b in range(rows):
        others = range(b // group * group, (b // group + 1) * group)
        for n in range(calls):
            if not choices.count[b, n]:
                continue
            state = {p: tokens[b, p] for p in range(length) if commit_call[b, p] <= n}
            agree = [g for g in others if all(tokens[g, p] == t for p, t in state.items())]
            assert best[b, n] == max(reward[g] for g in agree)
            block = min(set(range(length)) - set(state)) // size
            for k in range(1, int(choices.seen.open[b, n].sum()) + 1):
                wanted = dict(state)
                for i in range(k):
                    place = block * size + int(choices.seen.place[b, n, i])
                    wanted[place] = int(choices.token[b, n, i])
                agree = [g for g in others if all(tokens[g, p] == t for p, t in wanted.items())]
                expected = max((reward[g] for g in agree), default=0.0)
                assert got[b, n, k - 1] == expected
                positive += expected > 0
    assert positive > 20
    own = np.asarray(got)[np.arange(rows), 0, np.asarray(choices.count[:, 0]) - 1]
    assert (own >= reward).all()  # a rollout agrees with itself


def test_each_recorded_decision_stands_for_its_share_of_the_calls():
    rng = np.random.default_rng(0)
    choices, tokens, commit_call = some_choices(rng, 6, 3, 4, 4, vocab=2)
    nfe = np.array(choices.count > 0).sum(1)
    nfe[0], nfe[1] = 9, 9  # nine calls, of which these were kept; the cap made the ninth of row 1
    rollout = as_rollout(tokens, commit_call, nfe, choices)
    rollout = rollout._replace(forced=jnp.arange(6) == 1)
    right = jnp.zeros(choices.token.shape)
    best = jnp.ones(choices.count.shape)
    made = head_update.decisions(rollout, right, best, jnp.arange(6.0))
    weight = made.weight.reshape(6, 3)
    kept = np.asarray(choices.count > 0).sum(1)
    np.testing.assert_allclose(weight.sum(1), [9, 8, *nfe[2:]])
    np.testing.assert_allclose(weight[0, : kept[0]], 9 / kept[0], rtol=1e-6)
    assert (weight[choices.count == 0] == 0).all()
    np.testing.assert_array_equal(made.later.reshape(6, 3)[0], 9 - choices.call[0])
    np.testing.assert_array_equal(made.reward.reshape(6, 3)[:, 0], np.arange(6))


LENGTH, VOCAB, MASK_ID = 3, 3, 2
PARAMS = reference.table_params(3, 2, LENGTH, VOCAB)


def judge(params, seen):
    """A softmax over features of the state, and expectations that are wrong on purpose."""
    rank = jnp.arange(seen.open.shape[-1])
    features = [rank * 1.0, seen.entropy * rank, jnp.sin(seen.hidden.sum(-1)), seen.place * 1.0]
    logits = sum(w * f for w, f in zip(params["state_head"]["w"], jnp.broadcast_arrays(*features)))
    logits = jnp.where(seen.open, logits, -jnp.inf)
    wrong = 0.3 + 0.2 * jnp.cos(3 * rank + seen.entropy)
    return Judgement(logits, wrong, -wrong, -2 * wrong, 5 * wrong)


def every_rollout(w):
    """One rollout of each way to write a completion at T = 0, and its reward."""
    rows = 400
    policy = reference.table_policy(LENGTH, VOCAB, MASK_ID)
    hidden_logits = lambda p, h, t: jnp.take_along_axis(  # noqa: E731
        policy.logits(p, h), t[:, None].repeat(h.shape[1], 1), axis=-1
    )
    policy = policy._replace(judge=judge, token_logits=hidden_logits)
    rule = Rule("state", draws=True, recorded=LENGTH)
    generate = sampler.make_generate(
        policy, SamplerSettings(LENGTH, LENGTH, 0.0, rule=rule), threshold="price"
    )
    prompts = jax.tree.map(lambda x: x.repeat(rows, 0), reference.some_prompts(1, 1, 2, VOCAB))
    params = PARAMS | {"state_head": {"w": w}}
    keys = jax.random.split(jax.random.key(0), rows)
    rollout = jax.device_get(jax.jit(generate)(params, prompts, jnp.float32(0.6), keys))
    first = {
        tuple(calls): i for i, calls in reversed(list(enumerate(rollout.commit_call.tolist())))
    }
    kept = np.array(sorted(first.values()))
    reward = np.random.default_rng(0).uniform(size=len(kept))
    return policy, jax.tree.map(lambda x: jnp.asarray(x[kept]), rollout), jnp.asarray(reward)


def test_the_policys_gradient_is_that_of_the_expected_return_whatever_the_head_expects():
    w = jnp.array([0.3, -0.8, 0.5, 0.2])
    policy, rollout, reward = every_rollout(w)
    assert len(reward) == 4  # 3 = 2 + 1 = 1 + 2 = 1 + 1 + 1
    choices, price = rollout.choices, 0.6 / LENGTH
    right = jnp.zeros(choices.token.shape)

    def log_p(w):
        judged = policy.judge({"state_head": {"w": w}}, choices.seen)
        log_pi = jax.nn.log_softmax(judged.logits, axis=-1)
        at = jnp.take_along_axis(log_pi, jnp.maximum(choices.count - 1, 0)[..., None], -1)[..., 0]
        return jnp.sum(jnp.where(choices.count > 0, at, 0.0), axis=1)

    chances = jnp.exp(log_p(w))
    np.testing.assert_allclose(jnp.sum(chances), 1, rtol=1e-5)

    def expected_return(w):
        return jnp.sum(jnp.exp(log_p(w)) * (reward - price * rollout.nfe))

    def objective(w):
        best = jnp.ones(choices.count.shape)
        made = head_update.decisions(rollout, right, best, reward)
        judged = policy.judge({"state_head": {"w": w}}, made.seen)
        value, _ = head_update.policy_objective(judged, made, CONFIG)
        return jnp.sum(jnp.repeat(chances, LENGTH) * jnp.where(made.weight > 0, value, 0.0))

    scale = 1 / np.sqrt(price + 0.02)
    exact = jax.grad(expected_return)(w)
    assert np.abs(exact).max() > 0.01
    np.testing.assert_allclose(jax.grad(objective)(w), scale * exact, rtol=1e-4, atol=1e-6)


def test_the_clip_stops_the_gradient_of_a_decision_whose_probability_has_moved():
    seen = Observation(
        jnp.zeros((2, 2, 1)),
        jnp.zeros((2, 2)),
        jnp.zeros((2, 2, 2)),
        jnp.zeros((2, 2), int),
        jnp.ones((2, 2), bool),
        jnp.full(2, 0.1),
    )
    made = head_update.Decisions(
        seen, jnp.array([1, 1]), jnp.log(jnp.array([0.5, 0.3])), *[jnp.ones(2)] * 5
    )
    made = made._replace(right=jnp.ones((2, 2)), later=jnp.zeros(2))

    def taken(logits):
        # Nothing is expected of any k, so that the return of 0.9 is all surprise.
        judged = Judgement(logits, *[jnp.full((2, 2), -50.0)] * 3, jnp.zeros((2, 2)))
        config = dataclasses.replace(CONFIG, clip=0.2)
        return head_update.policy_objective(judged, made, config)[0]

    gradient = jax.grad(lambda x: jnp.sum(taken(x)))(jnp.zeros((2, 2)))
    assert np.abs(gradient[0]).max() > 0.1  # a ratio of 1
    np.testing.assert_allclose(gradient[1], 0, atol=1e-6)  # of 0.5 / 0.3, with a good return


def test_a_decision_without_a_choice_has_no_gradient():
    shape = (1, 2)
    seen = Observation(
        jnp.zeros((*shape, 1)),
        jnp.zeros(shape),
        jnp.zeros((1, 2, 2)),
        jnp.zeros(shape, int),
        jnp.ones(shape, bool),
        jnp.zeros(1),
    )
    made = head_update.Decisions(seen, jnp.array([1]), jnp.zeros(1), *[jnp.ones(1)] * 5)
    made = made._replace(right=jnp.ones(shape))

    def value(x):
        logits = jnp.where(jnp.array([[True, False]]), x, -jnp.inf)
        judged = Judgement(logits, *[jnp.full(shape, -1.0)] * 3, jnp.zeros(shape))
        return jnp.sum(head_update.policy_objective(judged, made, CONFIG)[0])

    found, gradient = jax.value_and_grad(value)(jnp.zeros(shape))
    assert np.isfinite(found)
    np.testing.assert_array_equal(gradient, 0.0)


def test_a_position_is_judged_as_far_as_those_before_it_are_right():
    """Three open positions of four: the second is right half of the time, the third never."""
    now = jnp.log(jnp.array([[3.0, 1.0, 0.25, 7.0]]))  # of 3/4, 1/2, 1/5
    right = jnp.cumsum(jax.nn.log_sigmoid(now), axis=1)
    judged = Judgement(jnp.zeros((1, 4)), now, right, jnp.log(jnp.full((1, 4), 0.4)), now * 0)
    open_ = jnp.array([[True, True, True, False]])
    zeros = jnp.zeros((1, 4))
    seen = Observation(zeros[..., None], zeros, zeros[..., None] * zeros, zeros, open_, jnp.ones(1))
    made = head_update.Decisions(
        seen,
        count=jnp.array([2]),
        logprob=jnp.zeros(1),
        weight=jnp.ones(1),
        best=jnp.ones(1),
        right=jnp.array([[1.0, 0.5, 0.0, 0.0]]),
        reward=jnp.ones(1),
        later=jnp.array([2.0]),
    )
    config = dataclasses.replace(CONFIG, hindsight_weight=1.0, policy_weight=0.0)
    value, _ = head_update.loss(judged, made, config)
    by_position = [np.log(4 / 3), np.log(2), 0.5 * np.log(5 / 4)]
    solved = np.log(3 / 4 * 1 / 2 * 0.4)  # of the task, given that the first two were committed
    expected = sum(by_position) - solved + config.calls_weight * 2.0**2
    assert float(value) == pytest.approx(expected, rel=1e-5)
    # A state that no solved completion agrees with says nothing about any position.
    dead = made._replace(best=jnp.zeros(1), right=jnp.zeros((1, 4)))
    value, _ = head_update.loss(judged, dead, config)
    assert float(value) == pytest.approx(-solved + config.calls_weight * 4, rel=1e-5)


def test_updates_teach_the_head_what_happened():
    """Two kinds of states: in one, more than one token at a time is always wrong."""
    rows, size = 256, 2
    kind = jnp.arange(rows) % 2
    seen = Observation(
        jnp.zeros((rows, 1, size, 1)),
        jnp.broadcast_to(jnp.array([0.1, 0.2]), (rows, 1, size)),
        jnp.broadcast_to(kind[:, None, None, None] * 1.0, (rows, 1, size, size)),
        jnp.broadcast_to(jnp.arange(size), (rows, 1, size)),
        jnp.ones((rows, 1, size), bool),
        jnp.full((rows, 1), 0.05),
    )
    count = 1 + (jnp.arange(rows) // 2 % 2)
    choices = Choices(
        seen,
        count[:, None],
        jnp.full((rows, 1), jnp.log(0.5)),
        jnp.ones((rows, 1), int),
        jnp.zeros((rows, 1, size), int),
    )
    reward = 1.0 - kind * (count == 2)
    nfe = 3 - count
    # Every rollout is a group of its own.  The second token is another if it is written later.
    tokens = jnp.stack([jnp.zeros(rows, int), kind * (count == 1)], axis=1)
    rollout = as_rollout(tokens, jnp.ones((rows, size), int), nfe, choices)
    head = state_head.StateHead(state_head.StateHeadConfig(hidden=False), size)
    params = state_head.init(head, jax.random.key(0), 1)
    policy = reference.table_policy(LENGTH, VOCAB, MASK_ID)
    policy = policy._replace(judge=lambda p, s: head.apply({"params": p["state_head"]}, s))
    config = HeadUpdateConfig(minibatches=200, minibatch=64, learning_rate=1e-2)
    optimizer = optax.adam(config.learning_rate)
    step = head_update.make_head_update(policy, optimizer, config, group=1, block_length=size)
    state = params, optimizer.init(params)
    params, _, metrics = jax.jit(step)(*state, rollout, reward, jax.random.key(1))
    judged = head.apply({"params": params}, jax.tree.map(lambda x: x[:2, 0], seen))
    solved = np.asarray(judged.solved)
    np.testing.assert_allclose(solved, [[1, 1], [1, 0]], atol=0.1)
    np.testing.assert_allclose(judged.calls[:, 0], 1, atol=0.15)
    assert judged.logits[0].argmax() == 1 and judged.logits[1].argmax() == 0
    sums, counts = metrics["head/k"]
    assert sums / counts == pytest.approx(4 / 3, abs=0.05)  # those of two calls stand for two
