import csv
import errno
import io
import json
import os

import numpy as np
import pytest
from made_runs import frontier, make_summary

from diffpo_jax.analysis import bootstrap, difficulty
from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.report import curves, figures, outcomes
from diffpo_jax.report.tables import csv_text
from diffpo_jax.report.write import frontier_csv, write_report

BASE = frontier((0.0, 0.9, 8.0), (1.0, 0.25, 3.2))
TRAINED = frontier((0.0, 1.0, 8.0), (1.0, 0.5, 3.2))
LEARNED = {
    "accuracy": 0.93,
    "nfe": 6.4,
    "tokens_per_call": 2.5,
    "forced": 0.5,
    "gamma_p5": 0.02,
    "gamma_p50": 0.08,
    "gamma_p95": 0.3,
}
FILES = ["frontier.csv", "frontier.png", "learning_curves.png", "outcomes.npz", "summary.json"]
OUTCOMES = {
    "base/0.1": Outcomes(np.array([1.0, 0.0, 0.5]), np.array([3.0, 16.0, 4.5])),
    "learned": Outcomes(np.array([0.0, 0.25, 1.0]), np.array([2.0, 3.0, 7.0])),
}


def summary(learned=LEARNED):
    return make_summary(BASE, TRAINED, learned, prompts=200)


def metrics():
    rows = [{"stage": "pretrain", "step": step, "loss": 1.0} for step in range(3)]
    for step in range(1, 7):
        row = {
            "stage": "rl",
            "step": step,
            "reward": 0.1 * step,
            "accuracy": 0.1 * step,
            "nfe": 5.0,
        }
        row |= {"gamma/p5": 0.02, "gamma/p50": 0.1, "gamma/p95": 0.1 * step}
        if step % 3 == 0:
            row |= {"eval/accuracy": 0.5, "eval/nfe": 4.0}
        rows.append(row)
    return rows


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every figure that is saved."""
    seen = []
    save = figures.save

    def spy(figure, path):
        seen.append(figure.get_axes())
        save(figure, path)

    monkeypatch.setattr(figures, "save", spy)
    return seen


def test_a_report_has_five_files_that_are_the_same_for_the_same_run(tmp_path):
    directory, again = tmp_path / "run" / "report", tmp_path / "again"
    for place in (directory, again):
        write_report(place, summary(), metrics(), OUTCOMES)
    for file in FILES:
        assert (directory / file).read_bytes() == (again / file).read_bytes()
    assert sorted(os.listdir(directory)) == FILES
    assert json.loads((directory / "summary.json").read_text()) == summary()
    for name in ("frontier.png", "learning_curves.png"):
        assert (directory / name).read_bytes().startswith(b"\x89PNG")
    kept = bootstrap.read_outcomes(directory / "outcomes.npz")
    assert list(kept) == list(OUTCOMES)
    for name, outcome in OUTCOMES.items():
        np.testing.assert_array_equal(kept[name].correct, outcome.correct)
        np.testing.assert_array_equal(kept[name].nfe, outcome.nfe)


def test_a_full_disk_leaves_the_old_report_in_place(tmp_path, monkeypatch):
    old = {name: b"old " + name.encode() for name in FILES}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path, summary(learned=None), [], OUTCOMES)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == old


def test_the_csv_has_a_row_for_each_point():
    assert frontier_csv(summary()) == (
        "model,gamma,accuracy,nfe,tokens_per_call,forced\n"
        "base,0.0,0.9,8.0,2.0,0.0\n"
        "base,1.0,0.25,3.2,5.0,0.0\n"
        "trained,0.0,1.0,8.0,2.0,0.0\n"
        "trained,1.0,0.5,3.2,5.0,0.0\n"
        "trained-learned,0.08,0.93,6.4,2.5,0.5\n"
    )


def test_the_csv_of_a_run_without_a_learned_point():
    rows = list(csv.DictReader(frontier_csv(summary(learned=None)).splitlines()))
    assert [row["model"] for row in rows] == ["base", "base", "trained", "trained"]


def test_the_frontier_figure_draws_both_models_and_the_learned_point(tmp_path, drawn):
    outcomes.plot_frontier(summary(), tmp_path / "f.png")
    ((axes,),) = drawn
    base, trained, learned = axes.containers
    assert base.lines[0].get_xydata().tolist() == [[3.2, 25.0], [8.0, 90.0]]
    assert trained.lines[0].get_xydata().tolist() == [[3.2, 50.0], [8.0, 100.0]]
    assert learned.lines[0].get_xydata().tolist() == [[6.4, 93.0]]
    # One standard error of 50 % of 200 prompts: sqrt(.25 / 200) = 3.5355 points either way.
    bar = trained.lines[2][0].get_segments()[0]
    assert bar[:, 1].tolist() == pytest.approx([50 - 3.5355, 50 + 3.5355], abs=1e-4)
    assert sorted(t.get_text() for t in axes.texts) == ["0", "0", "1", "1"]
    assert axes.get_xlabel() == "NFE (denoiser calls per sequence)"


def test_the_frontier_figure_without_a_learned_point(tmp_path, drawn):
    outcomes.plot_frontier(summary(learned=None), tmp_path / "f.png")
    assert len(drawn[0][0].containers) == 2


def test_learning_curves_draw_the_lines_of_rl(tmp_path, drawn):
    curves.plot_learning_curves(metrics(), tmp_path / "l.png")
    panels = {axes.get_title(loc="left"): axes for axes in drawn[0]}
    assert list(panels) == ["Training reward", "Accuracy", "NFE", "Threshold"]
    training, validation = panels["Accuracy"].get_lines()
    assert training.get_xydata()[:, 1].tolist() == pytest.approx([10, 20, 30, 40, 50, 60])
    assert validation.get_xydata().tolist() == [[3, 50.0], [6, 50.0]]
    assert panels["NFE"].get_lines()[1].get_xydata().tolist() == [[3, 4.0], [6, 4.0]]
    assert len(panels["Threshold"].collections) == 1


@pytest.mark.parametrize(
    "dropped, titles",
    [
        (("gamma/p5", "gamma/p50", "gamma/p95"), ["Training reward", "Accuracy", "NFE"]),
        (("gamma/p5",), ["Training reward", "Accuracy", "NFE", "Threshold"]),
        (("reward", "accuracy"), ["Accuracy", "NFE", "Threshold"]),
        (("reward", "accuracy", "eval/accuracy"), ["NFE", "Threshold"]),
    ],
)
def test_metrics_that_were_not_logged_are_not_drawn(tmp_path, drawn, dropped, titles):
    rows = [{k: v for k, v in row.items() if k not in dropped} for row in metrics()]
    curves.plot_learning_curves(rows, tmp_path / "l.png")
    assert [axes.get_title(loc="left") for axes in drawn[0]] == titles


def test_without_rl_steps_there_is_an_empty_picture(tmp_path, drawn):
    curves.plot_learning_curves(metrics()[:3], tmp_path / "l.png")
    assert drawn == [[]]
    assert (tmp_path / "l.png").read_bytes().startswith(b"\x89PNG")


def test_a_threshold_of_zero_is_drawn_on_a_linear_scale(tmp_path, drawn):
    curves.plot_learning_curves([{"stage": "rl", "step": 1, "gamma/p50": 0.0}], tmp_path / "l.png")
    assert drawn[0][0].get_yscale() == "linear"


def test_the_difficulty_figure_draws_the_base_and_a_fixed_dial_beside_the_trained_model(
    tmp_path, drawn
):
    others = {"base": ([16, 16, 16], [1, 0, 0]), "fixed": ([3, 3, 5], [1, 1, 0])}
    found = difficulty.by_difficulty([1, 2, 2], [2, 4, 6], [1, 1, 0], compared=others)
    fixed = {"model": "base", "dial": "confidence", "value": 0.9, "nfe": 11 / 3}
    found |= {"place": "price 1.0", "base_nfe": 16.0, "unit": "empty cells", "fixed": fixed}
    outcomes.plot_by_difficulty(found, tmp_path / "d.png")
    calls, accuracy = drawn[0]  # no thresholds
    assert calls.get_xlabel() == "difficulty (empty cells)"
    lines = [line.get_xydata().tolist() for line in accuracy.get_lines()]
    assert lines == [[[1, 100], [2, 0]], [[1, 100], [2, 50]], [[1, 100], [2, 50]]]
    lines = [line.get_xydata().tolist() for line in calls.get_lines()]
    assert lines == [[[1, 16], [2, 16]], [[1, 3], [2, 4]], [[1, 2], [2, 5]]]
    names = ["base at its best, 16.0 calls", "base, fixed confidence 0.9, 3.7 calls"]
    assert accuracy.get_legend_handles_labels()[1] == [*names, "trained, price 1.0"]
    assert calls.figure.get_suptitle() == "3 test prompts at the price 1.0"


def test_a_fixed_threshold_is_a_level_beside_learned_ones(tmp_path, drawn):
    others = {"fixed": ([2, 4], [1, 1])}
    found = difficulty.by_difficulty([1, 2], [2, 4], [1, 1], gamma=[0.4, 0.2], compared=others)
    found["fixed"] = {"model": "trained", "dial": "gamma", "value": 0.3, "nfe": 3.0}
    outcomes.plot_by_difficulty(found, tmp_path / "d.png")
    level, learned = drawn[0][0].get_lines()
    assert level.get_ydata() == [0.3, 0.3]
    assert learned.get_xydata().tolist() == [[1, 0.4], [2, 0.2]]


def test_the_difficulty_figure_draws_every_level(tmp_path, drawn):
    levels = difficulty.by_difficulty([1, 2, 2], [2, 4, 6], [1, 1, 0], gamma=[0.4, 0.2, 0.2])
    outcomes.plot_by_difficulty(levels, tmp_path / "d.png")
    threshold, calls, accuracy = drawn[0]
    assert threshold.get_lines()[0].get_xydata().tolist() == [[1, 0.4], [2, 0.2]]
    assert len(threshold.collections) == 1
    assert calls.get_lines()[0].get_xydata().tolist() == [[1, 2], [2, 5]]
    assert accuracy.get_lines()[0].get_xydata().tolist() == [[1, 100], [2, 50]]
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")


def test_smoothing_takes_the_mean_of_medians_over_windows_that_are_cut_off_at_the_ends():
    values = [1.0, 2.0, 90.0, 3.0, 4.0]
    assert figures.smooth(values, 1) == values
    # Medians: 1.5, 2, 3, 4, 3.5.
    assert figures.smooth(values, 3) == pytest.approx([1.75, 6.5 / 3, 3, 3.5, 3.75])


def test_a_smoothed_curve_is_also_drawn_as_it_is():
    axes = figures.new(4, 3).add_subplot()
    figures.draw_curve(axes, [1, 2, 3], [1.0, 5.0, 2.0], window=3, color="red", label="_a")
    smoothed, raw = axes.get_lines()
    assert raw.get_ydata().tolist() == [1.0, 5.0, 2.0]
    assert smoothed.get_ydata().tolist() == pytest.approx([2.5, 8.5 / 3, 2.75])
    (series,) = axes.figure.series
    assert (series.name, series.points[1].note) == ("_a", "5 before smoothing")


def test_of_tags_that_would_overlap_only_the_first_is_drawn():
    figure = figures.new(4, 3)
    axes = figure.add_subplot()
    points = [{"nfe": nfe, "accuracy": 0.5, "gamma": nfe} for nfe in (1.0, 1.01, 9.0)]
    figures.draw_frontier(axes, points, dial="gamma", color="red")
    figure.draw_without_rendering()
    shown = {tag.get_text(): tag.get_visible() for tag in axes.texts}
    assert shown == {"1": True, "1.01": False, "9": True}


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_in_a_csv_is_no_formula_of_a_spreadsheet(text):
    rows = [{"run": text, text: -0.5}, {"run": "a=b", text: None}]
    found = list(csv.reader(io.StringIO(csv_text(["run", text], rows), newline="")))
    safe = "'" + text.replace("\r", "\n")
    assert found == [["run", safe], [safe, "-0.5"], ["a=b", ""]]
