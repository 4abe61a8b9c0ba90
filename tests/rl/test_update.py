import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from diffpo_jax.arrays.types import Draws, Rollout
from diffpo_jax.config import (
    LikelihoodConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PretrainConfig,
    ThresholdConfig,
)
from diffpo_jax.diffusion import likelihood
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.rl import update
from diffpo_jax.rl.optimizer import make_optimizer, make_pretrain_optimizer, trained_groups

ROWS, LENGTH, PROMPT, MASK_ID, TEMPERATURE = 8, 4, 3, 5, 0.8
POLICY, PARAMS = reference.tiny_policy(
    mask_id=MASK_ID, threshold=ThresholdConfig(gamma=0.5, sigma=0.6, hidden=4, learn_sigma=True)
)
PROMPTS = reference.some_prompts(0, ROWS, PROMPT, 5)
OPTIMIZER = OptimizerConfig(
    denoiser_lr=1e-3, threshold_lr=1e-2, warmup=5, weight_decay=0.1, max_grad_norm=1.0
)
OBJECTIVE = ObjectiveConfig(
    weights="token",
    truncation=1.5,
    clip_low=0.2,
    clip_high=0.2,
    kl=0.0,
    gamma_weight=0.5,
    gamma_entropy=0.0,
)
SETTINGS = SamplerSettings(LENGTH, LENGTH, TEMPERATURE)
ANCHORED = LikelihoodConfig(anchors=2, remat=False, prompt_masking=0.0)
AGAIN = LikelihoodConfig(anchors=2, remat=True, prompt_masking=0.0)  # the same values
MODES = {"model": ("denoiser",), "sampler": ("threshold",), "joint": ("denoiser", "threshold")}


def some_batch():
    """Made-up rollouts: an update learns from whatever the record says."""
    rng = np.random.default_rng(1)

    def f32(x):
        return jnp.asarray(x, jnp.float32)

    calls = np.stack([rng.permutation([1, 2, 2, 3]) for _ in range(ROWS)])
    rollout = Rollout(
        tokens=jnp.asarray(rng.integers(0, 5, (ROWS, LENGTH)), jnp.int32),
        commit_call=jnp.asarray(calls, jnp.int32),
        sampled=jnp.asarray(rng.random((ROWS, LENGTH)) < 0.8).at[:, 0].set(True),
        logprob=f32(np.log(rng.uniform(0.1, 0.9, (ROWS, LENGTH)))),
        entropy=f32(rng.uniform(0, 1, (ROWS, LENGTH))),
        nfe=jnp.full(ROWS, 3, jnp.int32),
        gamma=f32(rng.uniform(0.1, 1, ROWS)),
        gamma_logprob=jnp.zeros(ROWS),
        forced=jnp.zeros(ROWS, bool),
        features=f32(rng.normal(size=(ROWS, 16))),
    )
    mu, sigma = POLICY.threshold(PARAMS, rollout.features)
    density = log_normal(np.log(rollout.gamma), mu, sigma)
    anchors = np.stack([np.zeros(ROWS), rng.integers(1, 3, ROWS)], axis=1)
    hidden = np.asarray(PROMPTS.mask) & (rng.random((ROWS, PROMPT)) < 0.3)
    return update.Batch(
        prompts=PROMPTS,
        rollout=rollout._replace(gamma_logprob=f32(density)),
        advantage=f32(rng.normal(size=ROWS)),
        draws=Draws(jnp.asarray(anchors, jnp.int32), jnp.asarray(hidden)),
        old=None,
        reference=None,
    )


def log_normal(x, mu, sigma):
    return -((x - mu) ** 2) / (2 * sigma**2) - jnp.log(sigma) - math.log(2 * math.pi) / 2


@pytest.fixture(scope="module")
def batch():
    return some_batch()


# The same log-probabilities by a slow, independent reference: one token after another.


def plain_log_probs(params, batch):
    tokens, calls = np.asarray(batch.rollout.tokens), np.asarray(batch.rollout.commit_call)
    anchors = np.asarray(batch.draws.anchors)
    prompt, real = np.asarray(batch.prompts.tokens), np.asarray(batch.prompts.mask)
    prompt = np.where(batch.draws.prompt_mask, MASK_ID, prompt)
    inputs, masks = [], []
    for i, k in np.ndindex(*tokens.shape):
        seen_at = max(a for a in anchors[i] if a < calls[i, k])
        state = np.where(calls[i] <= seen_at, tokens[i], MASK_ID)
        inputs.append([*prompt[i], *state])
        masks.append([*real[i], *[True] * LENGTH])
    inputs, masks = np.array(inputs, np.int32), np.array(masks)
    hidden = POLICY.hidden(params, jnp.asarray(inputs), jnp.asarray(masks))
    logits = POLICY.logits(params, hidden)[:, PROMPT:, :MASK_ID] / TEMPERATURE
    log_p = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    k = np.tile(np.arange(LENGTH), ROWS)
    return log_p[np.arange(len(k)), k, tokens.ravel()].reshape(tokens.shape)


def mean_over_counted(x, batch):
    counted = np.asarray(batch.rollout.sampled, np.float32)
    return jnp.sum(x * counted, axis=1) / counted.sum(axis=1)


# Programs, compiled once each.


def keeping_gradients(optimizer):
    """The same optimiser; its state also holds the last gradient."""

    def init(params):
        return optimizer.init(params), jax.tree.map(jnp.zeros_like, params)

    def apply(grads, state, params):
        updates, inner = optimizer.update(grads, state[0], params)
        return updates, (inner, grads)

    return optax.GradientTransformation(init, apply)


@functools.cache
def program(mode, micro_batch):
    groups = trained_groups(mode, False, "entropy_bounded")
    optimizer = keeping_gradients(make_optimizer(OPTIMIZER, groups, 1))
    # Mode "model" has a KL term too, so that all that an update can be given is given once.
    config = ObjectiveConfig(**(vars(OBJECTIVE) | {"kl": 0.1 if mode == "model" else 0.0}))
    step = update.make_update(
        POLICY,
        optimizer,
        ANCHORED if mode == "joint" and not micro_batch else AGAIN,
        config,
        groups=groups,
        settings=SETTINGS,
        micro_batch=micro_batch,
    )
    frozen = {name: PARAMS[name] for name in PARAMS if name not in groups}
    state = update.init_state({name: PARAMS[name] for name in groups}, optimizer)
    jitted = jax.jit(step)
    return lambda state, *rest: jitted(state, frozen, *rest), state


@functools.cache
def log_p_at_start():
    batch = some_batch()
    return np.asarray(jax.jit(lambda params: plain_log_probs(params, batch))(PARAMS))


def with_old_and_reference(batch):
    """Ratios 0.7 to 1.4: some are clipped, none is so near a bound that rounding decides."""
    rng = np.random.default_rng(2)
    ratio = rng.choice([0.7, 0.9, 1.1, 1.4], (ROWS, LENGTH))
    old = log_p_at_start() - np.log(ratio)
    ref = log_p_at_start() + rng.normal(size=ratio.shape)
    given = [jnp.asarray(x, jnp.float32) for x in (old, ref)]
    return batch._replace(old=given[0], reference=given[1]), ratio


@functools.cache
def updated(mode, micro_batch=None):
    """The state and the metrics after one update of `some_batch`."""
    step, state = program(mode, micro_batch)
    batch = some_batch()
    if mode == "sampler":
        batch = batch._replace(draws=None)
    if mode == "model":
        batch, _ = with_old_and_reference(batch)
    return step(state, batch)


def gradient_of(state):
    return state.opt_state[1]


def assert_close(a, b, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def moved(new, old):
    return [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old))]


def value(metrics, name):
    total, count = metrics[name]
    return float(total) / float(count)


# Tests.


def test_score_is_the_anchored_log_probability(batch):
    arguments = (PARAMS, batch.prompts, batch.rollout, batch.draws)
    expected = jax.jit(
        functools.partial(likelihood.anchored_log_prob, POLICY, config=ANCHORED, settings=SETTINGS)
    )(*arguments)
    score = jax.jit(update.make_score(POLICY, ANCHORED, SETTINGS, ROWS // 2))
    np.testing.assert_allclose(score(*arguments), expected, atol=1e-6)
    # `plain_log_probs` agrees, so that what follows compares like with like.
    sampled = np.asarray(batch.rollout.sampled)
    np.testing.assert_allclose(np.where(sampled, log_p_at_start(), 0), expected, atol=1e-5)


@pytest.mark.parametrize("micro_batch", [None, ROWS // 2])
@pytest.mark.parametrize(
    "anchored", [ANCHORED, LikelihoodConfig(anchors="all", prompt_masking=0.0)]
)
def test_rows_that_share_a_prompt_give_the_same_update(batch, anchored, micro_batch):
    prompts = jax.tree.map(lambda x: jnp.repeat(x[::2], 2, axis=0), batch.prompts)
    nfe = jnp.asarray(np.random.default_rng(3).permutation(ROWS) % 3 + 1, jnp.int32)
    calls = jnp.minimum(batch.rollout.commit_call, nfe[:, None])
    rollout = batch.rollout._replace(nfe=nfe, commit_call=calls)
    draws = likelihood.draw(jax.random.key(4), rollout, prompts, anchored)
    batch = batch._replace(prompts=prompts, rollout=rollout, draws=draws)
    groups = MODES["joint"]
    optimizer = keeping_gradients(make_optimizer(OPTIMIZER, groups, 1))

    def updated(size, micro_batch):
        step = update.make_update(
            POLICY,
            optimizer,
            anchored,
            OBJECTIVE,
            groups=groups,
            settings=SETTINGS._replace(rows_per_prompt=size),
            micro_batch=micro_batch,
        )
        return jax.jit(step)(update.init_state(PARAMS, optimizer), {}, batch)

    def scored(size, micro_batch):
        settings = SETTINGS._replace(rows_per_prompt=size)
        score = jax.jit(update.make_score(POLICY, anchored, settings, micro_batch))
        return score(PARAMS, prompts, rollout, draws)

    expected, metrics = updated(1, None)
    got, shared_metrics = updated(2, micro_batch)
    assert_close(gradient_of(got), gradient_of(expected), atol=4e-6)
    assert_close(shared_metrics, metrics, atol=1e-4)
    np.testing.assert_allclose(scored(2, micro_batch), scored(1, None), atol=1e-5)


def test_the_gradient_is_taken_at_y_whatever_the_mean_is(batch):
    """Of schedule-free AdamW: y is PARAMS, at which `updated` takes its gradient."""
    groups = MODES["joint"]
    config = dataclasses.replace(OPTIMIZER, kind="schedule_free_adamw")
    optimizer = keeping_gradients(make_optimizer(config, groups, 1))
    step = update.make_update(
        POLICY, optimizer, ANCHORED, OBJECTIVE, groups=groups, settings=SETTINGS
    )
    state = update.init_state(PARAMS, optimizer)
    mean = jax.tree.map(lambda x: x + 1, PARAMS["denoiser"])
    got, _ = jax.jit(step)(state._replace(params=PARAMS | {"denoiser": mean}), {}, batch)
    expected, _ = updated("joint")
    assert_close(gradient_of(got), gradient_of(expected), atol=1e-6)


def test_first_gradient_is_weighted_reinforce(batch):
    def reinforce(params):
        log_p = plain_log_probs(params, batch)
        ratio = jnp.exp(jax.lax.stop_gradient(log_p) - batch.rollout.logprob)
        weights = jnp.minimum(ratio, 1.5)
        tokens = mean_over_counted(weights * log_p, batch)
        mu, sigma = POLICY.threshold(params, batch.rollout.features)
        gamma = log_normal(jnp.log(batch.rollout.gamma), mu, sigma)
        return -jnp.mean(batch.advantage * (tokens + 0.5 * gamma))

    expected = jax.jit(jax.grad(reinforce))(PARAMS)
    state, metrics = updated("joint")
    # Sums over a batch of up to 0.4, in float32 and in another order: some units in the last place.
    assert_close(gradient_of(state), expected, atol=4e-6)
    assert all(np.abs(x).max() > 1e-4 for x in jax.tree.leaves(expected))
    # All ratios are 1: nothing is clipped and old and new are the same.
    assert value(metrics, "clip/token") == value(metrics, "clip/gamma") == 0
    assert value(metrics, "kl/old") == 0
    for name in ("denoiser", "threshold"):
        norm = math.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(expected[name])))
        assert value(metrics, f"grad_norm/{name}") == pytest.approx(norm, rel=1e-4)


def test_first_objective_is_the_mean_weighted_advantage(batch):
    _, metrics = updated("joint")
    weights = np.minimum(np.exp(log_p_at_start() - batch.rollout.logprob), 1.5)
    expected = np.mean(batch.advantage * (mean_over_counted(weights, batch) + 0.5))
    assert value(metrics, "objective") == pytest.approx(float(expected), abs=1e-5)
    assert value(metrics, "weights/mean") == pytest.approx(
        float(weights[np.asarray(batch.rollout.sampled)].mean()), rel=1e-4
    )


def test_micro_batches_give_the_whole_batch_gradient():
    whole, split = updated("joint"), updated("joint", micro_batch=ROWS // 2)
    assert_close(gradient_of(split[0]), gradient_of(whole[0]), atol=1e-6)
    assert_close(split[0].params, whole[0].params, atol=1e-6)
    assert split[1].keys() == whole[1].keys()
    for name in whole[1]:
        if not whole[1][name][1]:
            assert not split[1][name][1]  # calls that no rollout made
            continue
        assert value(split[1], name) == pytest.approx(value(whole[1], name), rel=1e-4, abs=1e-6)
    counts = [float(metrics["clip/token"][1]) for metrics in (whole[1], split[1])]
    assert counts[0] == counts[1] == some_batch().rollout.sampled.sum()


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_changes_only_the_parameters_it_trains(mode):
    state, metrics = updated(mode)
    assert state.step == 1
    assert value(metrics, "skipped") == 0
    assert set(state.params) == set(MODES[mode])
    for name in ("denoiser", "threshold"):
        assert name not in state.params or all(moved(state.params[name], PARAMS[name]))
        assert (f"grad_norm/{name}" in metrics) == (name in MODES[mode])


def test_sampler_mode_and_joint_mode_have_the_same_head_gradient():
    one, both = (gradient_of(updated(mode)[0]) for mode in ("sampler", "joint"))
    assert_close(one["threshold"], both["threshold"], atol=1e-7)
    assert "denoiser" not in one


@functools.cache
def right_program(micro_batch=None, weight=0.3):
    groups, config = MODES["model"], ObjectiveConfig(weights="none", right_likelihood=weight)
    optimizer = keeping_gradients(make_optimizer(OPTIMIZER, groups, 1))
    step = update.make_update(
        POLICY,
        optimizer,
        ANCHORED,
        config,
        groups=groups,
        settings=SETTINGS,
        micro_batch=micro_batch,
    )
    frozen = {"threshold": PARAMS["threshold"]}
    state = update.init_state({"denoiser": PARAMS["denoiser"]}, optimizer)
    return jax.jit(lambda state, batch: step(state, frozen, batch)), state


RIGHT = jnp.asarray([1, 0, 0, 1, 1, 0, 0, 0], bool)


@pytest.mark.parametrize("micro_batch", [None, ROWS // 4])
def test_the_likelihood_of_right_rollouts_is_raised(batch, micro_batch):
    """The right ones are not spread evenly over the micro-batches."""

    def objective(denoiser):
        log_p = plain_log_probs(PARAMS | {"denoiser": denoiser}, batch)
        ratio = jnp.exp(log_p - jax.lax.stop_gradient(log_p))
        tokens = batch.rollout.sampled & RIGHT[:, None]
        likelihood = jnp.sum(jnp.where(tokens, log_p, 0)) / jnp.sum(tokens)
        reinforced = jnp.mean(batch.advantage * mean_over_counted(ratio, batch))
        return reinforced + 0.3 * likelihood, likelihood

    (expected, likelihood), gradient = jax.value_and_grad(objective, has_aux=True)(
        PARAMS["denoiser"]
    )
    step, state = right_program(micro_batch)
    new, metrics = step(state, batch._replace(right=RIGHT))
    assert_close(gradient_of(new)["denoiser"], jax.tree.map(jnp.negative, gradient), 4e-6)
    assert value(metrics, "objective") == pytest.approx(float(expected), rel=1e-4)
    assert value(metrics, "logprob/right") == pytest.approx(float(likelihood), rel=1e-5)


def test_groups_that_are_all_right_teach_by_their_likelihood_alone(batch):
    step, state = right_program()
    equal = batch._replace(advantage=jnp.zeros(ROWS))
    new, metrics = step(state, equal._replace(right=RIGHT))
    assert value(metrics, "skipped") == 0
    assert all(moved(new.params, state.params))
    again, metrics = step(new, equal._replace(right=jnp.zeros(ROWS, bool)))
    assert value(metrics, "skipped") == 1
    assert not any(moved(again._replace(step=0), new._replace(step=0)))
    assert not metrics["logprob/right"][1]


def test_the_likelihood_term_takes_no_pass_through_the_denoiser(batch):
    """What remains is a sum over [B L], far from a call's operations."""
    step, state = right_program()
    without, _ = right_program(weight=0.0)
    cost = [
        f.lower(state, b).compile().cost_analysis()["flops"]
        for f, b in ((step, batch._replace(right=RIGHT)), (without, batch))
    ]
    assert cost[0] == pytest.approx(cost[1], rel=0.01)


def test_no_advantage_means_no_update(batch):
    step, _ = program("joint", None)
    state, _ = updated("joint")  # momentum is not zero any more
    again, metrics = step(state, batch._replace(advantage=jnp.zeros(ROWS)))
    assert not any(moved(again._replace(step=0), state._replace(step=0)))
    assert again.step == state.step + 1
    assert value(metrics, "skipped") == 1
    # One row with an advantage is enough.
    again, metrics = step(state, batch._replace(advantage=jnp.zeros(ROWS).at[3].set(1e-3)))
    assert all(moved(again.params, state.params))
    assert value(metrics, "skipped") == 0


def test_given_old_and_reference_log_probabilities_are_used(batch):
    given, ratio = with_old_and_reference(batch)
    old, ref = given.old, given.reference

    def objective(params):
        new = plain_log_probs(params, batch)
        weights = jnp.minimum(jnp.exp(old - batch.rollout.logprob), 1.5)
        rho, a = jnp.exp(new - old), batch.advantage[:, None]
        surrogate = jnp.where(
            a > 0, jnp.where(rho > 1.2, 1.2, rho) * a, jnp.where(rho < 0.8, 0.8, rho) * a
        )
        kl = jnp.exp(ref - new) - (ref - new) - 1
        return jnp.mean(mean_over_counted(weights * surrogate - 0.1 * kl, batch))

    expected, grads = jax.jit(jax.value_and_grad(objective))(PARAMS)
    state, metrics = updated("model")
    assert value(metrics, "objective") == pytest.approx(float(expected), abs=1e-5)
    assert_close(
        gradient_of(state)["denoiser"], jax.tree.map(jnp.negative, grads["denoiser"]), 3e-6
    )
    counted = np.asarray(batch.rollout.sampled)
    positive = np.asarray(batch.advantage)[:, None] > 0
    clipped = np.where(positive, ratio > 1.2, ratio < 0.8)[counted]
    assert 0 < clipped.mean() < 1
    assert value(metrics, "clip/token") == pytest.approx(clipped.mean())
    assert value(metrics, "kl/old") > 0.01
    assert value(metrics, "kl/reference") > 0.01
    # What compares the surrogate with the sampler belongs to the first update alone.
    assert "kl/sequence" not in metrics
    assert "kl/sequence" in updated("joint")[1]


def test_rate_scales_the_step_but_not_the_moments(batch):
    step, state = program("joint", None)
    whole, _ = updated("joint")
    half, _ = step(state, batch, 0.5)
    for a, b, c in zip(*(jax.tree.leaves(x) for x in (whole.params, half.params, PARAMS))):
        np.testing.assert_allclose(np.subtract(b, c), np.subtract(a, c) / 2, atol=1e-6)
    assert_close(half.opt_state, whole.opt_state, atol=1e-7)


def test_scoring_as_d1_at_its_own_temperature_with_the_mask_token(batch):
    likelihood_config = LikelihoodConfig(
        anchors=2, prompt_masking=0.0, temperature=1.0, keep_mask=True
    )
    score = jax.jit(update.make_score(POLICY, likelihood_config, SETTINGS, 0))
    got = np.exp(score(PARAMS, batch.prompts, batch.rollout, batch.draws))
    plain = jax.jit(update.make_score(POLICY, ANCHORED, SETTINGS._replace(temperature=1.0), 0))
    without = np.exp(plain(PARAMS, batch.prompts, batch.rollout, batch.draws))
    sampled = np.asarray(batch.rollout.sampled)
    # The mask token takes its share from every other: p' = p (1 - p_mask).
    assert np.all(got[sampled] < without[sampled])
    assert np.all(got[sampled] > 0.2 * without[sampled])


def test_divergence_is_the_sum_over_the_sequence(batch):
    rng = np.random.default_rng(3)
    old, ref = (jnp.asarray(rng.normal(size=(ROWS, LENGTH)), jnp.float32) for _ in range(2))
    for kind, of in (("k1", lambda d: -d), ("k2", lambda d: d**2 / 2)):
        config = ObjectiveConfig(kl_estimator=kind)
        got = update.make_divergence(config, SETTINGS)(old, ref, batch.rollout)
        terms = np.where(batch.rollout.sampled, of(np.asarray(ref - old)), 0)
        np.testing.assert_allclose(got, terms.sum(axis=1), rtol=1e-5)


# Optimisers, on two numbers.

TREE = {"denoiser": {"w": jnp.array([1.0, -1.0])}, "threshold": {"w": jnp.array([2.0])}}
GRADS = {"denoiser": {"w": jnp.array([30.0, 40.0])}, "threshold": {"w": jnp.array([0.5])}}


def test_each_group_has_its_rate_and_its_warmup():
    config = OptimizerConfig(
        denoiser_lr=1e-3, threshold_lr=1e-1, warmup=4, weight_decay=0.0, max_grad_norm=1.0
    )
    optimizer = make_optimizer(config, MODES["joint"], 1)
    state, sizes = optimizer.init(TREE), []
    for _ in range(6):
        updates, state = optimizer.update(GRADS, state, TREE)
        sizes.append((-updates["denoiser"]["w"][0], -updates["threshold"]["w"][0]))
    # A constant gradient: Adam's step is the rate, from rate/4 up to the rate in 4 steps.
    shares = np.array([0.25, 0.4375, 0.625, 0.8125, 1.0, 1.0])
    np.testing.assert_allclose(sizes, shares[:, None] * [[1e-3, 1e-1]], rtol=1e-4)


def test_each_group_is_clipped_by_its_own_norm():
    config = OptimizerConfig(max_grad_norm=1.0, beta1=0.9)
    _, state = make_optimizer(config, MODES["joint"], 1).update(
        GRADS, make_optimizer(config, MODES["joint"], 1).init(TREE), TREE
    )
    moments = jax.tree_util.tree_leaves_with_path(state)
    first = {jax.tree_util.keystr(p): x for p, x in moments if ".mu" in jax.tree_util.keystr(p)}
    denoiser = next(x for p, x in first.items() if "['denoiser']['w']" in p)
    threshold = next(x for p, x in first.items() if "['threshold']['w']" in p)
    np.testing.assert_allclose(denoiser, [0.1 * 0.6, 0.1 * 0.8], rtol=1e-5)  # of norm 50
    np.testing.assert_allclose(threshold, [0.1 * 0.5], rtol=1e-5)  # of norm 0.5: as it is


def test_weight_decay_applies_to_the_denoiser_only():
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.5, warmup=0), MODES["joint"], 1)
    zero = jax.tree.map(jnp.zeros_like, GRADS)
    updates, _ = optimizer.update(zero, optimizer.init(TREE), TREE)
    assert all(np.sign(updates["denoiser"]["w"]) == [-1, 1])
    np.testing.assert_array_equal(updates["threshold"]["w"], [0.0])


def test_adafactor_keeps_means_over_rows_and_columns():
    """Of a matrix of 128 x 130, its first step by hand: no squares of earlier gradients yet."""
    rng = np.random.default_rng(0)
    kernel, gradient = (rng.normal(size=(2, 128, 130)).astype(np.float32) for _ in range(2))
    tree = {"denoiser": {"w": jnp.asarray(kernel)}, "threshold": TREE["threshold"]}
    grads = {"denoiser": {"w": jnp.asarray(gradient)}, "threshold": GRADS["threshold"]}
    config = OptimizerConfig(
        kind="adafactor", denoiser_lr=1e-3, warmup=0, weight_decay=0.5, max_grad_norm=1e9
    )
    optimizer = make_optimizer(config, MODES["joint"], 1)
    state = optimizer.init(tree)
    kept = sum(x.size for x in jax.tree.leaves(state))
    assert kept < 2 * (128 + 130) + 20
    updates, _ = optimizer.update(grads, state, tree)
    squares = gradient**2
    rows, columns = squares.mean(axis=2, keepdims=True), squares.mean(axis=1, keepdims=True)
    step = gradient / np.sqrt(rows * columns / rows.mean(axis=1, keepdims=True))
    step /= max(1, np.sqrt((step**2).mean()))
    expected = -1e-3 * (step + 0.5 * kernel)
    np.testing.assert_allclose(updates["denoiser"]["w"], expected, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(updates["threshold"]["w"], [-1e-2], rtol=1e-4)  # Adam's


def test_the_first_moment_may_be_in_bfloat16():
    config = OptimizerConfig(mu_dtype="bfloat16")
    state = make_optimizer(config, MODES["joint"], 1).init(TREE)
    dtypes = {
        jax.tree_util.keystr(path): x.dtype
        for path, x in jax.tree_util.tree_leaves_with_path(state)
        if "['w']" in jax.tree_util.keystr(path)
    }
    short = [path for path, dtype in dtypes.items() if dtype == jnp.bfloat16]
    assert len(dtypes) == 4
    assert len(short) == 1
    assert ".mu" in short[0] and "['denoiser']" in short[0]


@pytest.mark.parametrize("mode", MODES)
def test_frozen_groups_have_no_moments(mode):
    groups = trained_groups(mode, False, "entropy_bounded")
    state = make_optimizer(OptimizerConfig(), groups, 1).init({n: TREE[n] for n in groups})
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    kept = {name for name in TREE if any(f"['{name}']['w']" in path for path in paths)}
    assert kept == set(MODES[mode])


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_pretraining_does_not_change_the_head(kind):
    optimizer = make_pretrain_optimizer(PretrainConfig(kind=kind, warmup=0, learning_rate=1e-2))
    updates, state = optimizer.update(GRADS, optimizer.init(TREE), TREE)
    # Two numbers are too few to factor: each step is the gradient over its own size, of both.
    np.testing.assert_allclose(updates["denoiser"]["w"], [-1e-2, -1e-2], rtol=1e-4)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert any(".mu" in path for path in paths) == (kind == "adamw")
    np.testing.assert_array_equal(updates["threshold"]["w"], [0.0])


def test_rates_warm_up_and_decay():
    config = PretrainConfig(steps=6, warmup=2, learning_rate=1e-2, decay="linear")
    of_base = make_pretrain_optimizer(config)
    config = OptimizerConfig(denoiser_lr=1e-2, threshold_lr=1e-2, warmup=2, decay="linear")
    for optimizer in (of_base, make_optimizer(config, MODES["joint"], 6)):
        state, rates = optimizer.init(TREE), []
        for _ in range(7):  # of Adam on a constant gradient, every step is as long as the rate
            updates, state = optimizer.update(GRADS, state, TREE)
            rates.append(-updates["denoiser"]["w"][0])
        expected = [5e-3, 7.5e-3, 1e-2, 7.5e-3, 5e-3, 2.5e-3, 0]
        np.testing.assert_allclose(rates, expected, rtol=1e-4)
