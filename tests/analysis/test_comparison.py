import math

import numpy as np
import pytest
from made_studies import PROMPTS, A, B, finished

from diffpo_jax.analysis import comparison
from diffpo_jax.analysis.bootstrap import Outcomes


def test_spread_is_mean_and_sample_deviation():
    assert comparison.spread([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)), (1.0, 3.0))
    assert math.isnan(comparison.spread([1.0]).deviation)


def test_an_arm_does_not_differ_from_itself():
    got = comparison.paired_differences(A, A, (5, 6))
    assert got["5"]["gain"] == got["5"]["low"] == got["5"]["high"] == 0.0
    assert got["mean"]["deviation"] == 0.0


def test_paired_differences_match_numbers_worked_by_hand():
    got = comparison.paired_differences(A, B, (3, 5, 6, 7, 20))
    assert set(got) == {"5", "6", "7", "mean", "learned"}  # 3 and 20 calls are not covered
    for name in ("5", "6", "7", "mean"):
        assert got[name]["gain"] == pytest.approx(0.05)
        assert got[name]["deviation"] == pytest.approx(0.0, abs=1e-12)
        assert 0 <= got[name]["low"] <= 0.05 <= got[name]["high"] <= 0.15
        assert got[name]["seeds"] == 3
    # b's frontier is a line from 0.45 to 0.85 between its two mean calls.
    expected = []
    for ours, theirs in zip(A, B):
        fast, slow = (theirs.outcomes[f"trained/{d}"] for d in ("1", "0.1"))
        n = ours.outcomes["learned"].nfe.mean()
        share = (n - fast.nfe.mean()) / (slow.nfe.mean() - fast.nfe.mean())
        expected.append(0.7 - (0.45 + share * 0.4))
    assert got["learned"]["gain"] == pytest.approx(np.mean(expected))


def test_the_interval_is_that_of_the_paired_difference():
    """2 of 40 prompts differ: the interval is that of a mean of 40 with share 0.05, not wider."""
    got = comparison.paired_differences(A[:1], B[:1], (6,), resamples=4_000)["6"]
    spread = math.sqrt(0.05 * 0.95 / PROMPTS)
    assert got["high"] - got["low"] < 2 * 2.3 * spread
    assert got["high"] - got["low"] > 2 * 1.0 * spread
    assert math.isnan(got["deviation"])


def test_runs_without_common_seeds_or_prompts_are_refused():
    with pytest.raises(ValueError, match="no seed in common"):
        comparison.paired_differences(A[:1], B[1:], (6,))
    short = {name: Outcomes(o.correct[:5], o.nfe[:5]) for name, o in A[0].outcomes.items()}
    with pytest.raises(ValueError, match="different numbers of prompts"):
        comparison.paired_differences([A[0]._replace(outcomes=short)], B, (6,))


def test_gains_are_over_the_runs_own_base():
    run = A[0]
    assert comparison.mean_gain(run) == pytest.approx(0.1)
    assert comparison.gain(run) == pytest.approx(0.1)
    assert math.isnan(comparison.at_calls(run, "base", 20.0))
    fixed = finished("c", 0, 0.1, learns=False)
    assert comparison.reported_point(fixed)["accuracy"] == pytest.approx(0.9)


def test_bases_are_grouped_by_rule_and_counted_once():
    groups = comparison.base_groups([*A, *B, finished("c", 0, 0.1, rule="top_k")])
    assert {group.label: len(group.runs) for group in groups} == {
        comparison.BASE: 3,
        f"{comparison.BASE}, top_k": 1,
    }


def test_a_mean_frontier_averages_each_dial_over_the_runs_that_have_it():
    fast, slow = comparison.mean_frontier(A, "trained")
    assert (fast["dial"], fast["runs"], slow["dial"], slow["runs"]) == (1.0, 3, 0.1, 3)
    assert (fast["accuracy"], slow["accuracy"]) == pytest.approx((0.5, 0.9))
    assert fast["nfe"] == pytest.approx(
        np.mean([run.outcomes["trained/1"].nfe.mean() for run in A])
    )


def test_a_curve_has_steps_and_calls_spent():
    steps, spent, values = comparison.curve_by_step(A, "reward")
    assert steps == [1, 2, 3, 4]
    assert spent == pytest.approx([100 * s * 2 + 10 * s for s in steps])  # seeds 0, 1, 2
    assert [v.mean for v in values] == pytest.approx([0.1 * s + 1 for s in steps])
    steps, spent, values = comparison.curve_by_step(A, "eval/accuracy")
    assert steps == [0, 2, 4]
    assert spent[0] == 0.0
    assert [v.mean for v in values] == pytest.approx([0.5, 0.6, 0.6])
    assert comparison.curve_by_step(A, "none") == ([], [], [])


def test_a_curve_has_the_steps_where_every_run_that_logs_the_metric_has_a_value():
    def run(*points):
        rows = [{"stage": "rl", "step": step, "reward": value} for step, value in points]
        return A[0]._replace(metrics=rows)

    runs = [run((1, 0.1), (2, 0.2), (3, 0.3)), run((1, 0.5), (3, 0.7)), run()]
    steps, _, values = comparison.curve_by_step(runs, "reward")
    assert [(s, v.values) for s, v in zip(steps, values)] == [(1, (0.1, 0.5)), (3, (0.3, 0.7))]
