import csv
import json

import pytest
from made_studies import A, B, finished

from diffpo_jax.analysis import comparison
from diffpo_jax.analysis.groups import by_arm
from diffpo_jax.report import curves, figures, kl_per_call, study_figures, study_tables, tables

ARMS = by_arm([*A, *B])


def test_tables_hold_the_numbers_of_the_runs():
    final, equal, against = study_tables.study_tables(ARMS, (3, 6), "b")
    row = dict(zip(final.columns, final.rows[0]))
    assert row["arm"] == "a"
    assert row["accuracy, %"] == "70.0 ± 0.0"
    assert row["gain at those calls"] == "+10.0 ± 0.0"
    assert row["denoiser calls of RL"] == "1,500"
    assert [r[0] for r in equal.rows] == [comparison.BASE, "a", "b"]
    assert [r[2] for r in equal.rows] == ["-"] * 3
    assert [r[0] for r in against.rows] == ["a"]
    assert against.rows[0][2] == "-"
    assert against.rows[0][3].startswith("+5.0 [")


def test_a_table_has_the_same_cells_as_text_markdown_and_json():
    final = study_tables.study_tables(ARMS, (3, 6))[0]
    text = tables.as_text(final)
    assert all(cell in text for cell in final.rows[1])
    title, _, head, rule, *rows = tables.as_markdown(final).splitlines()
    assert title == f"## {final.title}"
    assert len({line.count("|") for line in (head, rule, *rows[:2])}) == 1
    assert [cell.strip() for cell in rows[0].strip("|").split("|")] == final.rows[0]
    value = json.loads(json.dumps(tables.as_json(final), allow_nan=False))
    assert list(value) == ["title", "columns", "rows", "note"]
    assert tables.from_json(value) == final


def test_an_arm_without_a_learned_threshold_is_marked():
    fixed = [finished("c", seed, 0.1, learns=False) for seed in (0, 1, 2)]
    final, _, against = study_tables.study_tables(by_arm([*A, *fixed]), (6,), "a")
    assert [row[2] for row in final.rows] == ["learned", "best fixed"]
    assert against.rows[0][-1] == "-"


def test_a_single_arm_has_no_table_of_differences():
    assert len(study_tables.study_tables(by_arm(A), (6,))) == 2


def test_figures_are_files_with_their_numbers(tmp_path):
    scaled = dict(A[0].summary) | {
        "scaled": [{"factor": 2.0, "accuracy": 0.6, "nfe": 5.0, "tokens_per_call": 3.2}]
    }
    runs = [A[0]._replace(summary=scaled), *A[1:], *B]
    names = study_figures.write(tmp_path, by_arm(runs))
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


def test_an_arm_has_the_same_colour_in_every_figure():
    """Also on a task that another arm has no runs of."""
    elsewhere = [run._replace(task="other") for run in B]
    arms = by_arm([*A, *B, *elsewhere])
    colour = figures.style(1)["color"]
    final = study_figures.final(arms).figure.axes
    assert [axes.get_lines()[-1].get_color() for axes in final] == [colour, colour]
    only = [arm for arm in by_arm([*A, *elsewhere]) if arm.label == "b"]
    for draw in (study_figures.frontiers, study_figures.learning):
        handles, labels = draw(only, "other").figure.axes[0].get_legend_handles_labels()
        drawn = dict(zip(labels, handles))["b"]
        line = drawn if hasattr(drawn, "get_color") else drawn.lines[0]
        assert line.get_color() == colour


def test_means_over_different_seeds_are_labelled_with_their_number():
    def labels(runs):
        return study_figures.frontiers(by_arm(runs), "sudoku").figure.axes[0]

    legend = labels([*A, B[0]]).get_legend_handles_labels()[1]
    assert legend == [f"{comparison.BASE} (3 seeds)", "a (3 seeds)", "b (1 seed)"]
    assert labels([*A, *B]).get_legend_handles_labels()[1] == [comparison.BASE, "a", "b"]


def test_kl_per_call_is_a_table_and_a_line_for_each_surrogate():
    def surrogate(*points):
        by_call = [
            {"call": call, "kl": kl, "standard_error": 0.1, "tokens": tokens}
            for call, kl, tokens in points
        ]
        return {"by_call": by_call, "kl_token": 0.25, "kl_sequence": 4.0}

    result = {
        "surrogates": {
            "1": surrogate((1, 0.0, 40), (2, 0.5, 30), (3, 0.9, 19)),
            "2": surrogate((1, 0.0, 40), (2, 0.125, 30), (3, 0.25, 19)),
        },
        "assumption": {"pairs": 8, "pairs_growing": 0.25, "tokens_holding": 0.5},
        "settings": {"prompts": 2, "rollouts": 3, "temperature": 1.0, "model": "base"},
    }
    lines = kl_per_call.as_text(result).splitlines()
    assert [line.split() for line in lines[2:6]] == [
        ["call", "tokens", "K=1", "K=2"],
        ["1", "40", "0.0000", "0.0000"],
        ["2", "30", "0.5000", "0.1250"],
        ["3", "19", "0.9000", "0.2500"],
    ]
    assert lines[6].split() == ["mean", "per", "token", "0.2500", "0.2500"]
    assert "For 50.0 % of the tokens" in lines[-1] and "25.0 % of 8 steps" in lines[-1]
    picture = kl_per_call.draw(result)
    assert [row["anchors"] for row in picture.rows] == ["1"] * 3 + ["2"] * 3
    for i, line in enumerate(picture.figure.axes[0].containers):
        assert line.lines[0].get_color() == figures.style(i)["color"]
        assert line.lines[0].get_xdata().tolist() == [1, 2]  # fewer than 20 tokens: not drawn


def test_arms_are_also_drawn_against_the_calls_spent():
    drawn = {picture.name: picture for picture in curves.learning(ARMS)}
    assert [name for name in drawn if name.endswith("_by_cost")] == [
        "reward_by_cost",
        "validation_accuracy_by_cost",
        "validation_calls_by_cost",
    ]
    (line, _) = drawn["reward_by_cost"].figure.axes[0].get_lines()
    # A step of seed s has 100 (1 + s) calls of rollouts and 10 of updates; seeds 0, 1, 2.
    assert line.get_xdata().tolist() == [210, 420, 630, 840]
    assert line.get_ydata().tolist() == pytest.approx([1.1, 1.2, 1.3, 1.4])
