import json

import made_runs
import numpy as np
import pytest

from diffpo_jax.analysis import bootstrap, runs
from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.system.errors import UserError


def test_a_finished_run_is_read_completely(tmp_path):
    got = runs.read_run(made_runs.run(tmp_path / "a", 3))
    assert (got.name, got.seed, got.samples_name) == ("a", 3, "test")
    assert got.metrics == made_runs.rows(3)
    assert got.summary == made_runs.summary(3)
    assert got.samples == made_runs.samples()
    assert got.config["rl.steps"] == made_runs.STEPS
    assert got.info["machine"] == "m"
    assert (got.task, got.arm, got.outcomes) == ("countdown", "", {})
    assert [row["step"] for row in got.rl] == [0, 1, 2, 3, 4, 5, 6]


def test_a_run_in_progress_has_no_summary_and_its_torn_last_line_is_ignored(tmp_path):
    path = made_runs.run(tmp_path / "a", finished=False)
    with open(tmp_path / "a" / "metrics.jsonl", "a") as file:
        file.write('{"stage": "rl", "step": 7, "rew')
    got = runs.read_run(path)
    assert got.metrics == made_runs.rows(0)
    assert (got.summary, got.samples, got.samples_name) == (None, [], "")


def test_a_run_that_has_just_begun_has_no_metrics(tmp_path):
    path = made_runs.run(tmp_path / "a", finished=False)
    for name in ("metrics.jsonl", "run_info.json"):
        (tmp_path / "a" / name).unlink()
    got = runs.read_run(path)
    assert (got.metrics, got.written, got.info) == ([], None, {})


def test_an_unfinished_run_has_the_samples_of_its_latest_rollouts(tmp_path):
    path = made_runs.run(tmp_path / "a", finished=False)
    for step in (25, 100):
        file = tmp_path / "a" / "samples" / f"rl-{step:06d}.jsonl"
        # Unicode's line separator within a text does not end a line.
        file.write_text(json.dumps({"prompt": f"{step}\u2028"}, ensure_ascii=False) + "\n")
    got = runs.read_run(path)
    assert (got.samples_name, got.samples) == ("rl-000100", [{"prompt": "100\u2028"}])


def test_fields_that_the_runs_code_did_not_have_are_at_their_defaults(tmp_path):
    path = made_runs.run(tmp_path / "a", method="d1")
    file = tmp_path / "a" / "config.json"
    values = json.loads(file.read_text())
    del values["lora"], values["rl"]["likelihood"]["anchors"]
    values["gone"] = {"since": 1}
    file.write_text(json.dumps(values))
    got = runs.read_run(path).config
    assert (got["lora.rank"], got["rl.likelihood.anchors"], got["gone.since"]) == (None, 1, 1)


def test_values_of_older_versions_are_read_as_todays(tmp_path):
    path = made_runs.run(tmp_path / "a")
    file = tmp_path / "a" / "config.json"
    values = json.loads(file.read_text())
    values["rl"]["micro_batch"], values["init_from"] = 0, ""
    values["rl"]["likelihood"]["anchors"], values["evaluation"]["steps"] = 0, []
    file.write_text(json.dumps(values))
    got = runs.read_run(path).config
    assert (got["rl.micro_batch"], got["init_from"], got["evaluation.steps"]) == (None, None, None)
    assert got["rl.likelihood.anchors"] == "all"


def test_a_run_that_must_be_finished_has_outcomes(tmp_path):
    path = made_runs.run(tmp_path / "a")
    with pytest.raises(UserError, match=r"outcomes\.npz cannot be read"):
        runs.read_run(path, finished=True)
    outcomes = {"learned": Outcomes(np.ones(2), np.ones(2), np.arange(2))}
    bootstrap.write_outcomes(tmp_path / "a" / "report" / "outcomes.npz", outcomes)
    got = runs.read_run(path, "n", "sudoku:smoke", "arm", finished=True)
    assert (got.name, got.task, got.arm, list(got.outcomes)) == (
        "n",
        "sudoku:smoke",
        "arm",
        ["learned"],
    )
    with pytest.raises(UserError, match=r"summary\.json is missing"):
        runs.read_run(made_runs.run(tmp_path / "b", finished=False), finished=True)


def test_defaults_are_those_of_the_method_and_the_rule():
    got = runs.default_values({"method": "d1", "sampler.rule": "random"})
    assert (got["method"], got["rl.likelihood.anchors"]) == ("d1", 1)
    assert got["sampler.ranking"] == "random"
    assert runs.default_values({"method": "of another time"})["method"] == "diffpo"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "holds no run: there is no config.json"),
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[1]", "must hold a JSON object"),
        ("config.json", '{"a": 1}', "not the configuration of a run"),
        ("metrics.jsonl", "{\n{}\n", "line 1 is not a JSON object"),
        ("metrics.jsonl", '{"loss": 1}\n', "line 1 has no stage or no step"),
        ("config.json", '{"seed": 0, "rl": 3}', "config.rl=3 must be a section"),
        ("config.json", '{"seed": 0, "rl": {"steps": "60"}}', "config.rl.steps='60' must be int"),
        ("config.json", '{"seed": 0, "sampler": {"rule": 3}}', "config.sampler.rule=3 must be"),
        ("report/summary.json", '{"base": 1}', "has no trained, gains, prompts, dial, mode"),
        ("report/summary.json", "nan?", "summary.json cannot be read"),
        ("samples/test.jsonl", "{\n", "test.jsonl is damaged"),
        ("evaluations/a/settings.json", "{}", "has no model and changes"),
        ("evaluations/a/settings.json", "?", "settings.json cannot be read"),
    ],
)
def test_damaged_files_are_errors(tmp_path, name, content, message):
    path = made_runs.run(tmp_path / "a")
    file = tmp_path / "a" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(UserError, match=message):
        runs.read_run(path)


def test_a_study_lists_every_run_and_reads_those_that_have_begun(tmp_path):
    path = made_runs.study(
        tmp_path,
        ("a", 0, "done"),
        ("a", 1, "failed", "countdown", "NaN"),
        ("b", 0, "pending"),
        ("b", 1, "done"),
        results={"title": "T"},
    )
    made_runs.run(tmp_path / "runs" / "a-0")
    got = runs.read_study(path)
    assert runs.is_study(path) and not runs.is_study(tmp_path / "runs")
    assert [one.id for one in got.runs] == ["a-0", "a-1", "b-0", "b-1"]
    assert [one.run is not None for one in got.runs] == [True, False, False, False]
    errors = [one.error for one in got.runs]
    assert errors[:3] == ["", "NaN", ""]
    assert "holds no run" in errors[3]  # done, but its directory is missing
    assert (got.runs[0].run.name, got.runs[0].run.arm) == ("a-0", "a")
    assert got.results == {"title": "T"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"runs": []}', "must have a title and a list of runs"),
        ('{"title": "t", "runs": [{"id": "a"}]}', "run 1 has no arm of type str"),
        ('{"title": "t", "runs": [7]}', "run 1 has no id"),
    ],
)
def test_a_damaged_study_is_an_error(tmp_path, content, message):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError, match=message):
        runs.read_study(tmp_path)


def test_an_unknown_state_is_an_error(tmp_path):
    with pytest.raises(UserError, match="has the state 'lost'; it must be one of done, failed"):
        runs.read_study(made_runs.study(tmp_path, ("a", 0, "lost")))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"columns": ["a"]}, "needs columns and rows"),
        (
            {"title": "x", "columns": ["a"], "rows": [[1, 2]]},
            "a row of the table 'x' does not have 1 cells",
        ),
    ],
)
def test_a_damaged_table_of_a_study_is_an_error(tmp_path, table, message):
    path = made_runs.study(tmp_path, results={"tables": [table]})
    with pytest.raises(UserError, match=message):
        runs.read_study(path)
