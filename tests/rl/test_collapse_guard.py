import json

import pytest

from diffpo_jax.config import GuardConfig
from diffpo_jax.rl import collapse_guard

CONFIG = GuardConfig(
    window=2, reward=0.25, tokens_per_call=1.5, accuracy=0.1, evaluation=0.1, lower=0.1
)
FINE = {"reward": 0.7, "tokens_per_call": 2.0, "accuracy": 0.8}


def watch(lines, config=CONFIG, seen=None):
    seen, met = seen or collapse_guard.start(), []
    for number, line in enumerate(lines):
        seen, new = collapse_guard.observe(seen, line, config)
        met += [(number, name) for name in new]
    return seen, met


def test_steady_training_meets_no_condition():
    assert watch([FINE] * 10)[1] == []


@pytest.mark.parametrize(
    "later, expected",
    [
        ({"reward": 0.4}, "reward"),
        ({"reward": 0.5}, None),
        ({"tokens_per_call": 3.5, "accuracy": 0.65}, "sliding"),
        ({"tokens_per_call": 3.5, "accuracy": 0.75}, None),  # faster and nearly as good
        ({"tokens_per_call": 2.9, "accuracy": 0.2}, None),  # worse but no faster
        ({"eval/reward": 0.79}, None),
        ({"eval/reward": 0.65}, "evaluation"),
    ],
)
def test_conditions(later, expected):
    lines = [FINE | {"eval/reward": 0.8}, FINE, FINE | later, FINE | later]
    met = [name for _, name in watch(lines)[1]]
    assert met == ([expected] if expected else [])


def test_one_step_does_not_meet_a_condition_of_means():
    # The mean of 0.7 and 0.3 is 0.2 below the start.
    assert watch([FINE, FINE, FINE | {"reward": 0.3}])[1] == []


def test_a_reward_is_compared_with_its_best_and_in_units_of_the_largest():
    rising = [FINE | {"reward": x} for x in (0.1, 0.1, 0.6, 0.6)]
    assert watch(rising)[1] == []
    assert watch([*rising, FINE | {"reward": 0.3}, FINE | {"reward": 0.3}])[1] == [(5, "reward")]
    seen, met = collapse_guard.start(), []
    for line in [FINE, FINE, FINE | {"reward": 0.4}, FINE | {"reward": 0.4}]:
        seen, new = collapse_guard.observe(seen, line, CONFIG, 2.0)
        met += new
    assert met == []


def test_each_condition_is_reported_once_and_lowers_the_rate_once():
    low = FINE | {"reward": 0.1}
    config = GuardConfig(action="lower", window=2, reward=0.4, lower=0.1)
    seen, met = watch([FINE, FINE, low, low, low, low], config)
    assert met == [(3, "reward")]
    assert seen.rate == pytest.approx(0.1)
    assert watch([FINE, FINE, low, low])[0].rate == 1.0  # only a warning


def test_best_evaluation_is_kept():
    lines = [{"eval/reward": x} for x in (0.5, 0.9, 0.85, 0.79)]
    seen, met = watch(lines)
    assert met == [(3, "evaluation")]
    assert seen.best == 0.9


def test_a_resumed_guard_takes_the_same_decisions():
    lines = [FINE, FINE | {"eval/reward": 0.9}, FINE, FINE | {"reward": 0.1}, FINE] * 2
    whole, met = watch(lines)
    for cut in range(len(lines)):
        half, first = watch(lines[:cut])
        again = collapse_guard.from_meta(json.loads(json.dumps(collapse_guard.to_meta(half))))
        rest, second = watch(lines[cut:], seen=again)
        assert rest == whole
        assert first + [(n + cut, name) for n, name in second] == met


def test_no_meta_is_a_new_guard():
    assert collapse_guard.from_meta(None) == collapse_guard.start()
