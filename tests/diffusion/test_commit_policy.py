"""The head by state: what it sees, its exact probabilities, and the record of its decisions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.arrays.types import Choices, Observation
from diffpo_jax.config import StateHeadConfig
from diffpo_jax.diffusion import commit_policy
from diffpo_jax.diffusion import sampler as generate
from diffpo_jax.diffusion.settings import Rule, SamplerSettings
from diffpo_jax.diffusion.token_distribution import Readings
from diffpo_jax.models.state_head import Judgement, StateHead, init

LENGTH, VOCAB, MASK_ID, PROMPT, ROWS = 4, 4, 1, 2, 64
PARAMS = reference.table_params(0, PROMPT, LENGTH, VOCAB)
PROMPTS = jax.tree.map(
    lambda x: jnp.repeat(x, ROWS // 4, axis=0), reference.some_prompts(1, 4, PROMPT, VOCAB)
)
KEYS = jax.random.split(jax.random.key(2), ROWS)
PRICES = jnp.asarray(np.linspace(0.1, 2.0, ROWS), jnp.float32)


def judge(params, seen):
    """Logits that depend on everything the head sees."""
    rank = jnp.arange(seen.open.shape[-1])
    logits = jnp.sin(3 * seen.hidden).sum(-1) - seen.entropy * rank + 0.3 * jnp.cos(seen.place)
    logits += jnp.where(seen.open[..., None, :], seen.clash, 0.0).sum(-1)
    logits = jnp.where(seen.open, logits + rank * seen.price[..., None], -jnp.inf)
    return Judgement(logits, *[jnp.zeros_like(logits)] * 4)


def token_logits(params, hidden, tokens):
    logits = POLICY.logits(params, hidden)
    return jnp.take_along_axis(logits, tokens[:, None].repeat(hidden.shape[1], 1), axis=-1)


POLICY = reference.table_policy(LENGTH, VOCAB, MASK_ID)
POLICY = POLICY._replace(judge=judge, token_logits=token_logits)


@functools.cache
def rollouts(block_length=LENGTH, slots=None, recorded=LENGTH, rows_per_prompt=1, temperature=1.0):
    rule = Rule("state", draws=True, recorded=recorded)
    settings = SamplerSettings(
        LENGTH, block_length, temperature, rule=rule, rows_per_prompt=rows_per_prompt
    )
    program = generate.make_generate(POLICY, settings, threshold="price", slots=slots)
    return jax.device_get(jax.jit(program)(PARAMS, PROMPTS, PRICES, KEYS))


def by_hand(state, row, block_length):
    """Observation, log-probabilities of k and of tokens in a state [L], in float64."""
    prompt, mask = np.asarray(PROMPTS.tokens[row]), np.asarray(PROMPTS.mask[row])
    _, hidden = reference.table_hidden(PARAMS, prompt, mask, state)
    log_p = reference.log_probs(reference.table_logits(PARAMS, prompt, mask, state), MASK_ID)
    entropy, open_ = reference.entropy(log_p), np.asarray(state) == MASK_ID
    block = np.argmax(open_) // block_length
    places = [p for p in range(block * block_length, (block + 1) * block_length) if open_[p]]
    places.sort(key=lambda p: entropy[p])
    best = [int(np.argmax(log_p[p])) for p in places]
    logits = np.array(
        [
            np.sin(3 * hidden[p]).sum()
            - entropy[p] * i
            + 0.3 * np.cos(p % block_length)
            + i * float(PRICES[row]) / LENGTH
            + sum(np.exp(log_p[p, token] - log_p[p].max()) for token in best)
            for i, p in enumerate(places)
        ]
    )
    return places, logits - np.log(np.exp(logits).sum()), log_p, entropy


@pytest.mark.parametrize("block_length", [LENGTH, 2])
def test_every_decision_is_the_heads_and_its_probability_is_recorded(block_length):
    rollout = rollouts(block_length)
    choices = rollout.choices
    assert len(set(rollout.nfe.tolist())) > 1
    for row in range(ROWS):
        nfe, calls = rollout.nfe[row], rollout.commit_call[row]
        assert choices.call[row].tolist() == [*range(1, nfe + 1), *[0] * (LENGTH - nfe)]
        assert (choices.count[row, nfe:] == 0).all()
        for n in range(1, nfe + 1):
            state = np.where(calls < n, rollout.tokens[row], MASK_ID)
            places, log_k, log_p, entropy = by_hand(state, row, block_length)
            count = choices.count[row, n - 1]
            assert set(np.flatnonzero(calls == n)) == set(places[:count])
            np.testing.assert_allclose(choices.logprob[row, n - 1], log_k[count - 1], atol=1e-4)
            seen = jax.tree.map(lambda x, row=row, n=n: x[row, n - 1], choices.seen)
            assert seen.open.sum() == len(places)
            np.testing.assert_allclose(seen.entropy[: len(places)], entropy[places], atol=1e-5)
            assert (seen.place[: len(places)] == np.array(places) % block_length).all()
            assert seen.price == PRICES[row] / LENGTH
            for p in places[:count]:
                token = rollout.tokens[row, p]
                np.testing.assert_allclose(rollout.logprob[row, p], log_p[p, token], atol=1e-5)


def test_probabilities_of_all_rollouts_sum_to_one_and_are_those_of_the_record():
    row = 5

    def all_from(state):
        """(tokens and calls, log-probability) of every way to finish a state."""
        if MASK_ID not in state:
            return [((), 0.0)]
        places, log_k, log_p, _ = by_hand(state, row, LENGTH)
        found = []
        for count in range(1, len(places) + 1):
            real = [t for t in range(VOCAB) if t != MASK_ID]
            for tokens in itertools.product(real, repeat=count):
                new = np.array(state)
                new[places[:count]] = tokens
                here = log_k[count - 1] + sum(log_p[p, t] for p, t in zip(places, tokens))
                step = (tuple(places[:count]), tokens)
                found += [((step, *rest), here + x) for rest, x in all_from(new)]
        return found

    every = dict(all_from(np.full(LENGTH, MASK_ID)))
    assert np.exp(list(every.values())).sum() == pytest.approx(1, abs=1e-9)
    rollout, steps = rollouts(), []
    for n in range(1, rollout.nfe[row] + 1):
        state = np.where(rollout.commit_call[row] < n, rollout.tokens[row], MASK_ID)
        places = by_hand(state, row, LENGTH)[0][: rollout.choices.count[row, n - 1]]
        steps.append((tuple(places), tuple(rollout.tokens[row, places].tolist())))
    total = rollout.choices.logprob[row].sum() + rollout.logprob[row].sum()
    assert total == pytest.approx(every[tuple(steps)], abs=1e-4)


@pytest.mark.parametrize("how", [{"slots": 8}, {"rows_per_prompt": 16}])
def test_slots_and_a_shared_first_call_change_nothing(how):
    got, expected = rollouts(**how), rollouts()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)


def test_without_a_draw_the_most_probable_number_is_committed():
    settings = SamplerSettings(LENGTH, LENGTH, 0.0, rule=Rule("state"))
    program = generate.make_generate(POLICY, settings, threshold="price")
    rollout = jax.device_get(jax.jit(program)(PARAMS, PROMPTS, jnp.float32(0.4), KEYS))
    assert rollout.choices is None
    np.testing.assert_array_equal(rollout.gamma, np.float32(0.4))
    places, log_k, _, _ = by_hand(np.full(LENGTH, MASK_ID), 63, LENGTH)
    shift = np.arange(LENGTH) * (0.4 - float(PRICES[63])) / LENGTH  # `by_hand` has another price
    count = int(np.argmax(log_k + shift)) + 1
    assert set(np.flatnonzero(rollout.commit_call[63] == 1)) == set(places[:count])


def test_the_record_is_a_uniform_draw_of_the_calls():
    rows, calls, size = 4_000, 5, 2
    seen = Observation(*[jnp.zeros((rows, 3))] * 5, jnp.zeros(rows))
    choices = Choices(
        Observation(*[jnp.zeros((rows, size, 3))] * 5, jnp.zeros((rows, size))),
        *[jnp.zeros((rows, size), jnp.int32)] * 3,
        jnp.zeros((rows, size, 3), jnp.int32),
    )
    keys = jax.random.split(jax.random.key(0), rows)
    for n in range(1, calls + 1):
        call_keys = jax.vmap(lambda key, n=n: jax.random.fold_in(key, n))(keys)
        made = jnp.arange(rows) < rows - 1  # the last row makes no call
        number = jnp.full(rows, n)
        log_p = number.astype(jnp.float32)
        token = jnp.full((rows, 3), n)
        choices = commit_policy.record(choices, seen, number, log_p, number, made, token, call_keys)
    kept = np.asarray(choices.call)
    np.testing.assert_array_equal(choices.token, kept[..., None].repeat(3, -1))
    assert (kept[-1] == 0).all()
    pairs = {pair: 0 for pair in itertools.combinations(range(1, calls + 1), size)}
    for row in kept[:-1]:
        pairs[tuple(sorted(row.tolist()))] += 1
    expected = (rows - 1) / len(pairs)
    chi_square = sum((n - expected) ** 2 / expected for n in pairs.values())
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001


@pytest.mark.parametrize("hidden", [True, False])
def test_the_heads_logits_are_of_open_positions_and_ignore_the_rest(hidden):
    head = StateHead(StateHeadConfig(width=8, hidden=hidden), 4)
    params = init(head, jax.random.key(0), 3)
    rng = np.random.default_rng(0)
    open_ = jnp.array([[True, True, True, False], [False] * 4])
    seen = Observation(
        jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32),
        jnp.asarray(rng.uniform(size=(2, 4)), jnp.float32),
        jnp.asarray(rng.uniform(size=(2, 4, 4)), jnp.float32),
        jnp.array([[2, 0, 3, 1]] * 2),
        open_,
        jnp.array([0.1, 0.1]),
    )
    apply = lambda seen: head.apply({"params": params}, seen).logits  # noqa: E731
    logits = apply(seen)
    assert np.isfinite(logits[0, :3]).all() and logits[0, 3] == -jnp.inf
    np.testing.assert_array_equal(logits[1], [0, -np.inf, -np.inf, -np.inf])
    changed = seen._replace(
        hidden=seen.hidden.at[:, 3].set(9.0),
        entropy=seen.entropy.at[:, 3].set(9.0),
        clash=seen.clash.at[:, 3].set(9.0).at[:, :, 3].set(9.0),
        place=seen.place.at[:, 3].set(3),
    )
    np.testing.assert_allclose(apply(changed), logits, atol=1e-6)
    priced = apply(seen._replace(price=jnp.array([1.0, 1.0])))
    assert not np.allclose(priced[0, :3], logits[0, :3])
    clashing = apply(seen._replace(clash=seen.clash.at[0, 2, 0].add(1)))
    assert not np.allclose(clashing[0, 2], logits[0, 2])
    free = apply(seen._replace(price=jnp.array([0.0, 0.0])))  # then one position a call is best
    np.testing.assert_array_equal(np.isfinite(free), [[True, False, False, False]] * 2)
    moved = apply(seen._replace(hidden=seen.hidden + 1))
    # A layer norm takes a shift of all entries away; a change of one is seen.
    one = apply(seen._replace(hidden=seen.hidden.at[0, 0, 0].add(1)))
    np.testing.assert_allclose(moved[0, :3], logits[0, :3], atol=1e-3)
    assert np.allclose(one[0, :3], logits[0, :3]) != hidden


def test_more_positions_are_less_often_right_and_leave_less_to_do():
    head = StateHead(StateHeadConfig(width=8, hidden=False), 4)
    params = init(head, jax.random.key(0), 3)
    rng = np.random.default_rng(1)
    seen = Observation(
        jnp.zeros((1, 4, 3)),
        jnp.asarray(rng.uniform(size=(1, 4)), jnp.float32),
        jnp.asarray(rng.uniform(size=(1, 4, 4)), jnp.float32),
        jnp.array([[2, 0, 3, 1]]),
        jnp.array([[True, True, True, False]]),
        jnp.array([0.1]),
    )
    judged = head.apply({"params": params}, seen)
    now = 1 / (1 + np.exp(-np.asarray(judged.now, np.float64)[0, :3]))
    np.testing.assert_allclose(np.exp(judged.right[0, :3]), np.cumprod(now), rtol=1e-5)
    assert (np.diff(judged.lasting[0, :3]) > 0).all() and judged.lasting[0, 2] < 0
    assert (np.diff(judged.calls[0, :3]) < 0).all() and abs(judged.calls[0, 2]) < 1e-6
    np.testing.assert_allclose(judged.solved, np.exp(judged.right + judged.lasting), rtol=1e-6)


def test_the_observation_has_no_gradient_in_the_denoiser():
    def total(hidden):
        values = [jnp.sum(hidden, -1)] * 4
        readings = Readings(*values, best=jnp.zeros((1, 4), jnp.int32))
        seen = commit_policy.observe(
            POLICY, PARAMS, hidden, readings, jnp.ones((1, 4), bool), jnp.ones(1), 4
        )
        return jnp.sum(seen.hidden) + jnp.sum(seen.entropy) + jnp.sum(seen.clash)

    width = rollouts().choices.seen.hidden.shape[-1]
    assert (jax.grad(total)(jnp.ones((1, 4, width))) == 0).all()
