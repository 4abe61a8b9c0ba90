import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.config import ObjectiveConfig, RLConfig, SpeedConfig
from diffpo_jax.rl import rewards
from diffpo_jax.rl.rewards import (
    advantages,
    decoupled,
    draw_prices,
    equal_groups,
    speed_reward,
)

REWARDS = np.array([1.0, 0.0, 0.0, 1.0, 0.5, 0.5, 2.0, 0.0])  # group means 0.5 and 0.75


def test_group_mean_by_hand():
    got = advantages(REWARDS, 4, "mean")
    np.testing.assert_array_equal(got, [0.5, -0.5, -0.5, 0.5, -0.25, -0.25, 1.25, -0.75])
    assert got.dtype == np.float32


def test_group_std_by_hand():
    # Standard deviations 0.5 and sqrt((0.0625 + 0.0625 + 1.5625 + 0.5625) / 4) = 0.75.
    expected = [1, -1, -1, 1, -1 / 3, -1 / 3, 5 / 3, -1]
    np.testing.assert_allclose(advantages(REWARDS, 4, "group_std"), expected, rtol=1e-6)


def test_batch_std_by_hand():
    # Centred squares sum to 1 + 2.25 over eight rewards.
    expected = np.array([0.5, -0.5, -0.5, 0.5, -0.25, -0.25, 1.25, -0.75]) / np.sqrt(3.25 / 8)
    np.testing.assert_allclose(advantages(REWARDS, 4, "batch_std"), expected, rtol=1e-6)


def test_groups_are_consecutive():
    np.testing.assert_array_equal(
        advantages(REWARDS, 2, "mean"), [0.5, -0.5, -0.5, 0.5, 0, 0, 1, -1]
    )


@pytest.mark.parametrize("kind", ["mean", "group_std", "batch_std"])
@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3])
def test_an_equal_group_gets_exactly_zero(kind, value):
    # Means of such a group round away from its rewards: 0.1 summed three times is not 0.3.
    for group in (3, 5, 6, 7):
        rewards = np.array([value] * group + [0.0] * (group - 1) + [1.0])
        got = advantages(rewards, group, kind)
        np.testing.assert_array_equal(got[:group], 0)
        assert (got[group:] != 0).all()


def test_the_mean_of_an_equal_group_is_not_exact_in_floating_point():
    rewards = np.full(7, 0.1)
    assert any((np.full(n, v) - np.full(n, v).mean()).any() for n in (3, 6, 7) for v in (0.1, 0.7))
    np.testing.assert_array_equal(advantages(rewards, 7, "batch_std"), np.zeros(7))


@pytest.mark.parametrize("kind", ["mean", "group_std", "batch_std"])
def test_a_batch_of_equal_groups_is_zero_and_finite(kind):
    got = advantages(np.array([0.1] * 4 + [0.9] * 4), 4, kind)
    np.testing.assert_array_equal(got, np.zeros(8))


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_advantages_of_a_group_sum_to_zero(rewards):
    for kind in ("mean", "group_std", "batch_std"):
        got = advantages(np.array(rewards), 4, kind).astype(np.float64)
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got.reshape(-1, 4).sum(1), 0, atol=1e-5)


def test_unknown_kind():
    with pytest.raises(ValueError, match="median"):
        advantages(REWARDS, 4, "median")


def test_equal_groups():
    np.testing.assert_array_equal(equal_groups(REWARDS, 2), [False, False, True, False])
    np.testing.assert_array_equal(equal_groups(np.array([0.1, 0.1, 0.1, 0.2]), 2), [True, False])


def test_speed_reward_by_hand():
    task, nfe = np.array([1.0, 0.0, 0.5]), np.array([4, 8, 2])
    # lambda NFE/L = 0.15, 0.3, 0.075
    multiplicative = speed_reward(task, nfe, 8, 0.3, "multiplicative")
    np.testing.assert_allclose(multiplicative, [0.85, 0.0, 0.4625])
    additive = speed_reward(task, nfe, 8, 0.3, "additive")
    np.testing.assert_allclose(additive, [0.85, -0.3, 0.425])


def test_a_negative_reward_pays_no_price_of_calls():
    # Were it multiplied, 16 calls would earn -0.7 of the -1 that 1 call earns.
    task, nfe = np.array([-1.0, -1.0]), np.array([1, 16])
    np.testing.assert_array_equal(speed_reward(task, nfe, 16, 0.3, "multiplicative"), task)
    # Apart: the rewards' own part is 0, and so must the speed's be.
    np.testing.assert_array_equal(decoupled(task, nfe, 16, 0.3, 2), [0.0, 0.0])


@pytest.mark.parametrize("form", ["multiplicative", "additive"])
def test_weight_zero_leaves_the_task_reward(form):
    task = np.array([1.0, 0.0, 0.25])
    np.testing.assert_array_equal(speed_reward(task, np.array([1, 5, 8]), 8, 0.0, form), task)


TOKENS = np.array([[5, 2, 2], [5, 6, 7], [2, 5, 6], [5, 6, 2]])  # 2 ends a text
FORCED = np.array([True, False, False, False])
EARNED = np.array([1.0, 0.0, 0.0, 1.0])
NFE = np.array([1, 3, 2, 3])
SPEED = 3 / NFE  # tokens per call: 3, 1 and 1.5, 1


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ({}, [0.5, -0.5, -0.5, 0.5]),
        # The mean of the group still includes them.
        ({"drop_forced": True}, [0.0, -0.5, -0.5, 0.5]),
        ({"drop_unended": True}, [0.5, 0.0, -0.5, 0.5]),
        ({"drop_forced": True, "drop_unended": True}, [0.0, 0.0, -0.5, 0.5]),
        ({"least_spread": 0.5}, [0.5, -0.5, -0.5, 0.5]),  # the second pair's, exactly
        ({"least_spread": 0.6}, [0.5, -0.5, 0.0, 0.0]),
        ({"least_spread": 2.5}, [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_rollouts_that_are_left_out_get_no_advantage(objective, expected):
    config = RLConfig(group=2, objective=ObjectiveConfig(advantage="mean", **objective))
    left_out = rewards.left_out(TOKENS, FORCED, EARNED, SPEED, (2,), config)
    got = rewards.rollout_advantages(EARNED, EARNED, NFE, SPEED, left_out, 3, config)
    np.testing.assert_allclose(got, expected)
    assert got.dtype == np.float32


def test_prompts_without_any_reward_can_be_left_out():
    """With an additive price they would teach to fail in fewer calls."""
    earned, nfe = np.array([0.0, 0.0, -1.0, 0.2]), np.array([1, 3, 2, 2])
    for drop, expected in ((False, [0.1, -0.1, -0.6, 0.6]), (True, [0.0, 0.0, -0.6, 0.6])):
        objective = ObjectiveConfig(advantage="mean", drop_unsolved=drop)
        config = RLConfig(group=2, objective=objective)
        priced = earned - 0.1 * nfe
        left_out = rewards.left_out(TOKENS, FORCED, earned, SPEED, (2,), config)
        got = rewards.rollout_advantages(priced, earned, nfe, SPEED, left_out, 3, config)
        np.testing.assert_allclose(got, expected, atol=1e-7)


def test_the_likelihood_of_right_rollouts_that_teach_something_is_raised():
    correct, left_out = np.array([True, True, False, False]), np.array([True, False, True, False])
    config = RLConfig(objective=ObjectiveConfig(right_likelihood=0.1))
    np.testing.assert_array_equal(
        rewards.raised(correct, left_out, config), [False, True, False, False]
    )
    assert rewards.raised(correct, left_out, RLConfig()) is None


def test_accuracy_and_tokens_per_call_apart_by_hand():
    earned = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    speed = np.array([2.0, 4.0, 3.0, 3.0, 5.0, 1.0])
    none = np.zeros(6, bool)
    config = RLConfig(
        group=2,
        objective=ObjectiveConfig(advantage="decoupled_group"),
        speed=SpeedConfig(weight=0.5),
    )
    # By group: 1 -1 and half of -1 1; -1 1 and nothing; nothing and half of 1 -1.
    total = np.array([0.5, -0.5, -1.0, 1.0, 0.5, -0.5])
    got = rewards.rollout_advantages(earned, earned, NFE, speed, none, 6, config)
    np.testing.assert_allclose(got, total / np.sqrt(3 / 6), rtol=1e-6)
    # Without the second group the mean square is 0.25.
    left_out = np.array([False, False, True, True, False, False])
    got = rewards.rollout_advantages(earned, earned, NFE, speed, left_out, 6, config)
    np.testing.assert_allclose(got, [1, -1, 0, 0, 1, -1], rtol=1e-6)
    everything = rewards.rollout_advantages(earned, earned, NFE, speed, ~none, 6, config)
    np.testing.assert_array_equal(everything, np.zeros(6))


def test_rewards_pay_for_calls_and_for_leaving_the_reference():
    config = RLConfig(
        speed=SpeedConfig(weight=0.3, form="additive"),
        objective=ObjectiveConfig(kl=0.5, kl_in="reward"),
    )
    after_calls = EARNED - 0.3 * NFE / 3
    np.testing.assert_allclose(rewards.priced_rewards(EARNED, NFE, None, 3, config), after_calls)
    divergence = np.array([0.0, 2.0, -1.0, 0.2], np.float32)
    np.testing.assert_allclose(
        rewards.priced_rewards(EARNED, NFE, divergence, 3, config),
        after_calls - [0.0, 1.0, -0.5, 0.1],
        atol=1e-6,
    )


def test_a_share_of_the_prices_is_zero_and_the_others_are_even_on_a_log_scale():
    config = SpeedConfig(prices=(0.01, 1.0), free=0.25)
    prices = draw_prices(config, 4000, seed=3, number=7)
    assert (np.flatnonzero(prices == 0) == np.arange(3, 4000, 4)).all()  # every fourth
    paid = prices[prices > 0]
    assert (paid >= 0.01).all() and (paid <= 1).all()
    assert np.mean(paid < 0.1) == pytest.approx(0.5, abs=0.03)
    np.testing.assert_array_equal(prices, draw_prices(config, 4000, seed=3, number=7))
    assert (prices != draw_prices(config, 4000, seed=3, number=8)).any()
    for prompts, share, zeros in ((32, 0.0, 0), (10, 0.1, 1), (100, 0.07, 7), (3, 0.25, 0)):
        drawn = draw_prices(SpeedConfig(free=share), prompts, seed=0, number=0)
        assert np.sum(drawn == 0) == zeros
