import csv
import json
import math

import numpy as np
import pytest

from diffpo_jax.analysis import comparison
from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.analysis.comparison import Finished
from diffpo_jax.report import grid_figures, grid_tables

PROMPTS = 40


def outcomes(seed, shift):
    """Two points of a base and of a trained model, and a learned one, over the same prompts.

    The trained model solves `shift` of the prompts more at each.
    """
    draw = np.random.default_rng(seed)
    rank = (draw.permutation(PROMPTS) + 0.5) / PROMPTS
    calls = draw.integers(-1, 2, PROMPTS)
    made = {}
    for name, more in (("base", 0.0), ("trained", shift)):
        for dial, (solved, nfe) in {"0.1": (0.8, 8), "1": (0.4, 4)}.items():
            made[f"{name}/{dial}"] = Outcomes((rank < solved + more) * 1.0, nfe + calls * 1.0)
    made["learned"] = Outcomes((rank < 0.6 + shift) * 1.0, 6 + calls * 1.0)
    return made


def finished(arm, seed, shift, *, learns=True, rule="entropy_bounded"):
    of = outcomes(seed, shift)

    def point(name, **more):
        correct, nfe = of[name].correct.mean().item(), of[name].nfe.mean().item()
        return {"accuracy": correct, "nfe": nfe, "tokens_per_call": 16 / nfe} | more

    summary = {
        "base": {"frontier": [point(f"base/{d}", gamma=float(d)) for d in ("0.1", "1")]},
        "trained": {
            "frontier": [point(f"trained/{d}", gamma=float(d)) for d in ("0.1", "1")],
            "learned": point("learned") if learns else None,
        },
        "denoiser_calls": {"rollout": 1_000, "update": 500},
        "rule": rule,
        "dial": "gamma",
        "commit": "abc",
    }
    metrics = [
        {"stage": "pretrain", "step": 1, "loss": 1.0},
        {"stage": "rl", "step": 0, "eval/accuracy": 0.5, "eval/nfe": 6.0},
        *(
            {"stage": "rl", "step": step, "reward": 0.1 * step + seed}
            | {"calls/rollout": 100.0 * step * (1 + seed), "calls/update": 10.0 * step}
            | ({"eval/accuracy": 0.5 + shift, "eval/nfe": 6.0} if step % 2 == 0 else {})
            for step in range(1, 5)
        ),
    ]
    if not learns:
        del of["learned"]
    return Finished("sudoku", arm, seed, f"{arm}{seed}", summary, metrics, of)


A = [finished("a", seed, 0.1) for seed in (0, 1, 2)]
B = [finished("b", seed, 0.05) for seed in (0, 1, 2)]


def test_spread():
    assert comparison.spread([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)), (1.0, 3.0))
    assert math.isnan(comparison.spread([1.0]).deviation)


def test_the_same_runs_do_not_differ():
    found = comparison.paired(A, A, (5, 6))
    assert found["5"]["gain"] == found["5"]["low"] == found["5"]["high"] == 0.0
    assert found["mean"]["deviation"] == 0.0


def test_paired_differences_by_hand():
    found = comparison.paired(A, B, (3, 5, 6, 7, 20))
    assert set(found) == {"5", "6", "7", "mean", "learned"}  # 3 and 20 are not covered
    for name in ("5", "6", "7", "mean"):
        assert found[name]["gain"] == pytest.approx(0.05)
        assert found[name]["deviation"] == pytest.approx(0.0, abs=1e-12)
        assert 0 <= found[name]["low"] <= 0.05 <= found[name]["high"] <= 0.15
        assert found[name]["seeds"] == 3
    # b's frontier is a line from 0.45 to 0.85 between its two mean calls.
    expected = []
    for ours, theirs in zip(A, B):
        fast, slow = (theirs.outcomes[f"trained/{d}"] for d in ("1", "0.1"))
        n = ours.outcomes["learned"].nfe.mean()
        share = (n - fast.nfe.mean()) / (slow.nfe.mean() - fast.nfe.mean())
        expected.append(0.7 - (0.45 + share * 0.4))
    assert found["learned"]["gain"] == pytest.approx(np.mean(expected))


def test_the_interval_is_that_of_the_paired_difference():
    """Of 40 prompts 2 differ: the interval is that of a mean of 40 with share 0.05, not wider."""
    found = comparison.paired(A[:1], B[:1], (6,), resamples=4_000)["6"]
    spread = math.sqrt(0.05 * 0.95 / PROMPTS)
    assert found["high"] - found["low"] < 2 * 2.3 * spread
    assert found["high"] - found["low"] > 2 * 1.0 * spread
    assert math.isnan(found["deviation"])


def test_runs_that_share_nothing_are_refused():
    with pytest.raises(ValueError, match="no seed in common"):
        comparison.paired(A[:1], B[1:], (6,))
    short = {name: Outcomes(o.correct[:5], o.nfe[:5]) for name, o in A[0].outcomes.items()}
    with pytest.raises(ValueError, match="different numbers of prompts"):
        comparison.paired([A[0]._replace(outcomes=short)], B, (6,))


def test_gains_over_the_base():
    run = A[0]
    assert comparison.mean_gain(run) == pytest.approx(0.1)
    assert comparison.gain(run) == pytest.approx(0.1)
    assert comparison.total_calls(run) == 1_500
    assert math.isnan(comparison.at_calls(run, "base", 20.0))
    fixed = finished("c", 0, 0.1, learns=False)
    assert comparison.chosen(fixed)["accuracy"] == pytest.approx(0.9)


def test_bases_are_told_apart_by_rule_and_counted_once():
    runs = [*A, *B, finished("c", 0, 0.1, rule="top_k")]
    found = comparison.bases(runs)
    assert {label: len(of) for label, of in found.items()} == {
        comparison.BASE: 3,
        f"{comparison.BASE}, top_k": 1,
    }


def test_a_curve_by_step_and_by_calls():
    steps, spent, values = comparison.curve_by_step(A, "reward")
    assert steps == [1, 2, 3, 4]
    assert spent == pytest.approx([100 * s * 2 + 10 * s for s in steps])  # seeds 0, 1, 2
    assert [v.mean for v in values] == pytest.approx([0.1 * s + 1 for s in steps])
    steps, spent, values = comparison.curve_by_step(A, "eval/accuracy")
    assert steps == [0, 2, 4]
    assert spent[0] == 0.0
    assert [v.mean for v in values] == pytest.approx([0.5, 0.6, 0.6])
    assert comparison.curve_by_step(A, "none") == ([], [], [])


def test_tables_say_what_the_runs_say():
    final, equal, against = grid_tables.tables([*A, *B], (3, 6), "b")
    row = dict(zip(final["columns"], final["rows"][0]))
    assert row["arm"] == "a"
    assert row["accuracy, %"] == "70.0 ± 0.0"
    assert row["gain at those calls"] == "+10.0 ± 0.0"
    assert row["denoiser calls of RL"] == "1,500"
    assert [r[0] for r in equal["rows"]] == [comparison.BASE, "a", "b"]
    assert [r[2] for r in equal["rows"]] == ["-"] * 3
    assert [r[0] for r in against["rows"]] == ["a"]
    assert against["rows"][0][2] == "-"
    assert against["rows"][0][3].startswith("+5.0 [")
    text = grid_tables.as_text(final)
    assert all(cell in text for cell in final["rows"][1])
    title, _, head, rule, *rows = grid_tables.as_markdown(final).splitlines()
    assert title == f"## {final['title']}"
    assert len({line.count("|") for line in (head, rule, *rows[:2])}) == 1
    assert [cell.strip() for cell in rows[0].strip("|").split("|")] == final["rows"][0]
    json.dumps([final, equal, against], allow_nan=False)


def test_an_arm_without_a_learned_threshold_says_so():
    runs = [*A, *(finished("c", seed, 0.1, learns=False) for seed in (0, 1, 2))]
    final, _, against = grid_tables.tables(runs, (6,), "a")
    assert [row[2] for row in final["rows"]] == ["learned", "best fixed"]
    assert against["rows"][0][-1] == "-"


def test_one_arm_has_nothing_to_be_compared_with():
    assert len(grid_tables.tables(A, (6,))) == 2


def test_figures_and_their_numbers(tmp_path):
    scaled = dict(A[0].summary) | {
        "scaled": [{"factor": 2.0, "accuracy": 0.6, "nfe": 5.0, "tokens_per_call": 3.2}]
    }
    runs = [A[0]._replace(summary=scaled), *A[1:], *B]
    names = grid_figures.write(tmp_path, runs)
    assert names == ["final.svg", "frontier-sudoku.svg", "learning-sudoku.svg"]
    for name in names:
        assert (tmp_path / name).read_text().startswith("<?xml")
        assert (tmp_path / name.replace("svg", "png")).read_bytes().startswith(b"\x89PNG")

    def rows(name):
        with open(tmp_path / f"{name}.csv") as file:
            return list(csv.DictReader(file))

    assert [(r["arm"], r["seed"], float(r["accuracy"])) for r in rows("final")][:2] == [
        ("a", "0", pytest.approx(0.7)),
        ("a", "1", pytest.approx(0.7)),
    ]
    frontier = rows("frontier-sudoku")
    fast = next(r for r in frontier if r["arm"] == "a" and r["point"] == "fixed")
    assert float(fast["accuracy"]) == pytest.approx(0.5)
    assert fast["runs"] == "3"
    assert [r["point"] for r in frontier if r["arm"] == "a"].count("learned x 2") == 1
    learning = [r for r in rows("learning-sudoku") if r["arm"] == "b" and r["step"] == "4"]
    assert {r["metric"] for r in learning} == {"reward", "eval/accuracy", "eval/nfe"}


def test_means_of_different_seeds_say_so():
    figure, _ = grid_figures.frontiers([*A, B[0]], "sudoku")
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == [f"{comparison.BASE} (3 seeds)", "a (3 seeds)", "b (1 seeds)"]
    figure, _ = grid_figures.frontiers([*A, *B], "sudoku")
    assert figure.axes[0].get_legend_handles_labels()[1] == [comparison.BASE, "a", "b"]
