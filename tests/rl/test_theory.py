"""Claims of the method, on models small enough to enumerate, in float64.

Every rollout of one prompt is listed with its probability, so that expectations are sums: no
sampling error hides a wrong factor.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpo_jax.arrays.types import Draws, Prompts, Rollout
from diffpo_jax.config import LikelihoodConfig, ObjectiveConfig
from diffpo_jax.diffusion import anchors as anchor_lib
from diffpo_jax.diffusion import likelihood
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.rl import objective, rewards

LENGTH, VOCAB, MASK_ID, PROMPT, END = 3, 4, 1, 2, 3
POLICY = reference.table_policy(LENGTH, VOCAB, MASK_ID)
BLOCKS = (LENGTH, 1)
seeds = st.integers(0, 200)
gammas = st.sampled_from([0.0, 0.3, 0.8, 1.2, np.inf])


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def model(seed):
    """Parameters in float64 and one prompt."""
    params = reference.table_params(seed, PROMPT, LENGTH, VOCAB)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    return params, np.array([2, 3]), np.array([False, True])


@functools.cache
def trajectories(seed, gamma, block_length=LENGTH, stop=False):
    """Every rollout of a prompt: (prompts, rollout), and log-probabilities by slow replay."""
    params, prompt, mask = model(seed)
    records, tokens = [], []
    for completion in reference.completions(LENGTH, VOCAB, MASK_ID):
        record = reference.replay(
            lambda state: reference.table_logits(params, prompt, mask, state),
            completion,
            gamma,
            MASK_ID,
            block_length=block_length,
        )
        if stop:
            record, completion = stopped(record, completion)
        if any((completion == t).all() and (record.commit_call == r.commit_call).all()
               for t, r in zip(tokens, records)):  # fmt: skip
            continue  # what would have come after the end is filled in: the same rollout
        records.append(record)
        tokens.append(completion)
    calls = np.array([r.commit_call for r in records], np.int32)
    sampled = np.array([r.logprob != 0 for r in records])
    rollout = Rollout(*[None] * len(Rollout._fields))._replace(
        tokens=np.array(tokens, np.int32),
        commit_call=calls,
        sampled=sampled,
        logprob=np.array([r.logprob for r in records]),
        nfe=np.where(sampled, calls, 0).max(axis=1).astype(np.int32),
    )
    rows = len(tokens)
    return Prompts(np.tile(prompt, (rows, 1)), np.tile(mask, (rows, 1))), rollout


def stopped(record, completion):
    """The rollout if an end with nothing masked before it stops the row."""
    for call in range(1, record.commit_call.max() + 1):
        ends = [k for k in range(LENGTH) if completion[k] == END]
        if any((record.commit_call[: k + 1] <= call).all() for k in ends):
            rest = record.commit_call > call
            return (
                record._replace(
                    commit_call=np.where(rest, call + 1, record.commit_call),
                    logprob=np.where(rest, 0.0, record.logprob),
                ),
                np.where(rest, END, completion),
            )
    return record, completion


def log_prob(params, prompts, rollout, anchors):
    """log π̂ of every token, by the code under test."""
    rows = rollout.tokens.shape[0]
    anchors = jnp.broadcast_to(jnp.asarray(anchors, jnp.int32), (rows, anchors.shape[-1]))
    draws = Draws(anchors, jnp.zeros((rows, PROMPT), bool))
    return score(params, prompts, rollout, draws)


score = jax.jit(
    functools.partial(
        likelihood.anchored_log_prob,
        POLICY,
        config=LikelihoodConfig(),
        settings=SamplerSettings(LENGTH, LENGTH, 1.0),
    )
)


def surrogate(params, prompts, rollout, anchors):
    """π̂ of every trajectory."""
    log_p = log_prob(params, prompts, rollout, anchors)
    return jnp.exp(jnp.sum(jnp.where(rollout.sampled, log_p, 0), axis=1))


def anchors_of(kind, rollout, seed):
    """Anchors of every trajectory from the same draw, as stopping times require."""
    calls = jnp.asarray(rollout.commit_call)
    if kind == "exact":
        return anchor_lib.every_call(*calls.shape)
    if kind == "shrunk":
        return anchor_lib.every_call(*calls.shape, 2)
    key, count = jax.random.key(seed), int(kind)

    def of_one(row):
        return anchor_lib.draw_anchors(key, row[None], jnp.max(row)[None], count)[0]

    return jax.vmap(of_one)(calls)


@given(seed=seeds, gamma=gammas, block_length=st.sampled_from(BLOCKS), stop=st.booleans())
@settings(max_examples=12)
def test_enumerated_rollouts_have_total_probability_one(seed, gamma, block_length, stop):
    _, rollout = trajectories(seed, gamma, block_length, stop)
    assert np.exp(rollout.logprob.sum(axis=1)).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", ["1", "2", "3", "shrunk", "exact"])
@given(seed=seeds, gamma=gammas, block_length=st.sampled_from(BLOCKS), stop=st.booleans())
@settings(max_examples=8)
def test_surrogates_are_distributions(kind, seed, gamma, block_length, stop):
    prompts, rollout = trajectories(seed, gamma, block_length, stop)
    p = surrogate(model(seed)[0], prompts, rollout, anchors_of(kind, rollout, seed))
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    if kind == "exact":
        np.testing.assert_allclose(p, np.exp(rollout.logprob.sum(axis=1)), rtol=1e-9)


def rewards_of(seed, rollout):
    return np.random.default_rng(seed + 1).uniform(size=rollout.tokens.shape[0])


@pytest.mark.parametrize("kind", ["1", "2", "exact"])
@given(seed=seeds, gamma=gammas, stop=st.booleans())
@settings(max_examples=5)
def test_weighted_gradient_equals_the_gradient_of_the_surrogate_reward(kind, seed, gamma, stop):
    """With sequence weights, no truncation, no clip, no division by length; at θ_old."""
    params, *_ = model(seed)
    prompts, rollout = trajectories(seed, gamma, stop=stop)
    anchors, reward = anchors_of(kind, rollout, seed), rewards_of(seed, rollout)
    old = log_prob(params, prompts, rollout, anchors)
    how = ObjectiveConfig(
        weights="sequence", truncation=1e30, clip_low=1e30, clip_high=1e30, aggregation="constant"
    )
    occurs = np.exp(rollout.logprob.sum(axis=1))

    def objective_of(denoiser):
        new = log_prob(params | {"denoiser": denoiser}, prompts, rollout, anchors)
        value = objective.token_objective(
            new,
            old,
            jnp.asarray(rollout.logprob),
            None,
            jnp.asarray(rollout.sampled),
            jnp.asarray(reward),
            how,
        )
        return LENGTH * jnp.sum(occurs * value)

    def reward_of(denoiser):
        return jnp.sum(
            reward * surrogate(params | {"denoiser": denoiser}, prompts, rollout, anchors)
        )

    got, expected = (
        jax.grad(objective_of)(params["denoiser"]),
        jax.grad(reward_of)(params["denoiser"]),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), got, expected)
    # Not so without weights, unless the surrogate is exact: then they are 1.
    how = ObjectiveConfig(weights="none", clip_low=1e30, clip_high=1e30, aggregation="constant")
    plain = jax.grad(objective_of)(params["denoiser"])["table"]
    if kind == "exact":
        np.testing.assert_allclose(plain, expected["table"], atol=1e-9)


@pytest.mark.parametrize("kind", ["1", "2", "exact"])
def test_gradients_agree_with_finite_differences(kind):
    seed, gamma, step = 3, 0.8, 1e-6
    params, *_ = model(seed)
    prompts, rollout = trajectories(seed, gamma)
    anchors, reward = anchors_of(kind, rollout, seed), rewards_of(seed, rollout)

    def value(table):
        denoiser = params["denoiser"] | {"table": table}
        p = surrogate(params | {"denoiser": denoiser}, prompts, rollout, anchors)
        return jnp.sum(reward * p)

    table = jnp.asarray(params["denoiser"]["table"])
    gradient, run = np.asarray(jax.grad(value)(table)), jax.jit(value)
    rng = np.random.default_rng(0)
    for _ in range(5):
        towards = rng.normal(size=table.shape)
        slope = (run(table + step * towards) - run(table - step * towards)) / (2 * step)
        assert float(slope) == pytest.approx(float((gradient * towards).sum()), abs=1e-6)


@given(seed=seeds, gamma=gammas, stop=st.booleans(), kind=st.sampled_from(["1", "2", "3"]))
@settings(max_examples=15)
def test_theorem_1(seed, gamma, stop, kind):
    """E_π r ≥ E_π̂ r − r_max · sqrt(KL(π ‖ π̂) / 2)."""
    prompts, rollout = trajectories(seed, gamma, stop=stop)
    p = np.exp(rollout.logprob.sum(axis=1))
    q = np.asarray(surrogate(model(seed)[0], prompts, rollout, anchors_of(kind, rollout, seed)))
    kl = float((p * (np.log(p) - np.log(q))).sum())
    assert kl >= -1e-12
    for reward in (rewards_of(seed, rollout), (q > p).astype(float)):  # the second is the worst
        slack = reward.max() * np.sqrt(max(kl, 0) / 2)
        assert (p * reward).sum() >= (q * reward).sum() - slack - 1e-9


@pytest.mark.parametrize("group", [2, 3])
def test_subtracting_the_group_mean_scales_the_gradient_by_g_minus_1_over_g(group):
    """Over all groups of independent rollouts: E Σ A_i ∇log p_i / G = (G − 1)/G ∇E r."""
    rng = np.random.default_rng(0)
    p, reward, score = rng.dirichlet(np.ones(3)), rng.uniform(size=3), rng.normal(size=3)
    score -= (p * score).sum()  # a score function has mean zero
    exact = (p * reward * score).sum()
    for kind, factor in (("mean", (group - 1) / group), ("leave_one_out", 1.0)):
        total = 0.0
        for outcome in np.ndindex(*[3] * group):
            outcome = list(outcome)
            a = rewards.advantages(reward[outcome], group, kind)
            total += p[outcome].prod() * (a * score[outcome]).mean()
        assert total == pytest.approx(factor * exact, abs=1e-6)


@given(seed=seeds)
@settings(max_examples=5)
def test_later_anchors_reduce_the_kl_if_the_assumption_holds(seed):
    """Theorem 3: if KL does not grow with a later conditioning state, neither does 2-MF's mean."""
    params, *_ = model(seed)
    prompts, rollout = trajectories(seed, 0.0)  # one token a call: τ = 1 and τ = 2
    p = np.exp(rollout.logprob.sum(axis=1))

    def kl(*anchors):
        q = np.asarray(surrogate(params, prompts, rollout, np.array(anchors)))
        return float((p * (np.log(p) - np.log(q))).sum())

    one, two = kl(0), [kl(0, tau) for tau in (1, 2)]
    # The assumption, token by token: the third's KL from z_1 is no larger than from the prompt.
    kl_by_call = {
        (s, t): float(
            (
                p[:, None]
                * np.where(
                    rollout.commit_call == t,
                    rollout.logprob - log_prob_from_state(params, prompts, rollout, s),
                    0,
                )
            ).sum()
        )
        for s, t in ((0, 2), (0, 3), (1, 3))
    }
    if kl_by_call[1, 3] <= kl_by_call[0, 3]:
        assert np.mean(two) <= one + 1e-9
    assert kl(0, 1, 2) == pytest.approx(0, abs=1e-9)


def log_prob_from_state(params, prompts, rollout, state):
    """log p of every token from the state after this call; of earlier tokens, from the prompt."""
    return np.asarray(log_prob(params, prompts, rollout, np.array([0, state])))
