"""The command `evaluate`."""

import dataclasses
import json
import pathlib
import shutil

import pytest
from least import least

from diffpo_jax.config import check, convert
from diffpo_jax.run import experiment, export, score
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets.sudoku import SudokuPuzzles
from diffpo_jax.workdir import inputs as stored


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    experiment.run(least(), str(path))
    return path


@pytest.fixture(scope="module")
def weights(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "out"
    export.export(str(run), str(path), model="base")
    return path


def plain(points):
    return [{k: v for k, v in x.items() if k not in ("scores", "learned")} for x in points]


def test_published_weights_score_like_the_run_they_came_from(run, weights, tmp_path):
    config = least(**{"model.weights": str(weights)})
    result = score.score(config, str(tmp_path / "out"))
    frontier = json.loads((run / "report/summary.json").read_text())["base"]["frontier"]
    assert plain(result["points"]) == frontier
    assert json.loads((tmp_path / "out/evaluation.json").read_text()) == result
    assert result["model"]["weights"] == str(weights)
    assert len(result["model"]["sha256"]) == 64
    rows = (tmp_path / "out/samples/published-0.1.jsonl").read_text().splitlines()
    assert len(rows) == result["prompts"] == 16
    assert {"completion", "correct", "nfe"} <= json.loads(rows[0]).keys()
    assert "16 prompts" in score.table(result)


def test_a_runs_model_is_also_scored_at_its_learned_threshold(run, tmp_path):
    result = score.score(least(), str(tmp_path / "out"), run=str(run))
    summary = json.loads((run / "report/summary.json").read_text())
    assert plain(result["points"][:-1]) == summary["trained"]["frontier"]
    last, learned = result["points"][-1], summary["trained"]["learned"]
    assert last["learned"]
    assert (last["accuracy"], last["nfe"]) == (learned["accuracy"], learned["nfe"])
    assert "learned" in score.table(result)


def test_the_base_is_scored_under_any_rule_whatever_the_runs_mode(run, tmp_path):
    config = least(**{"sampler.rule": "confidence", "evaluation.confidences": (0.5,)})
    assert config.mode == "joint"  # which has no threshold to learn with this rule
    for which in ("base", "trained"):
        result = score.score(config, str(tmp_path / which), run=str(run), which=which)
        assert [point["confidence"] for point in result["points"]] == [0.5]
    with pytest.raises(
        UserError, match="mode 'joint' needs 'entropy_bounded', 'entropy_sum' or 'state'"
    ):
        check.check_training(config)


def test_dreams_schedule_and_guidance_count_every_pass(run, tmp_path):
    changes = {"sampler.rule": "top_k", "sampler.schedule": "dream", "sampler.guidance": 0.5}
    # Calls of a completion: fewer and more than its 16 tokens.
    config = least(**changes, **{"evaluation.steps": (5, 20)})
    result = score.score(config, str(tmp_path / "out"), run=str(run), which="base")
    assert [(point["steps"], point["nfe"]) for point in result["points"]] == [(5, 10), (20, 40)]
    with pytest.raises(UserError, match="guidance"):
        check.check_training(config)


def test_changed_test_examples_are_said_and_evaluated_again(run, tmp_path, capsys):
    """A file of the same name; only a warning, as nothing is trained."""
    puzzles = SudokuPuzzles.draw(least().task.sudoku)["test"]
    path = tmp_path / "test.csv"

    def evaluate(rows, out="out", **changes):
        path.write_text("Puzzle,Solution\n" + "".join(f"{a},{b}\n" for a, b in rows))
        config = least(**{"task.test_file": str(path), "evaluation.gammas": (1.0,)} | changes)
        result = score.score(config, str(tmp_path / out), run=str(copy))
        lines = capsys.readouterr().err.splitlines()
        return result, [x for x in lines if x.startswith(("note: trained", "warning:"))]

    # A run whose own results are on the first nine of them
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    field = f"config.task.test_file={path}"
    (recorded,) = [stored.read(run / "inputs.json")["test"]]
    stored.write(copy / "inputs.json", {"test": recorded._replace(field=field, rows=9)})
    config = dataclasses.replace(least().task, test_file=str(path))
    whole = dataclasses.replace(convert.from_json((copy / "config.json").read_text()), task=config)
    (copy / "config.json").write_text(convert.to_json(whole))

    result, lines = evaluate(puzzles[:8])
    assert result["prompts"] == 8
    assert lines == [
        f"warning: {field}: 9 test examples when the run began, 8 now; the results in {copy} are "
        "on the old ones."
    ]
    result, lines = evaluate(puzzles[1:9])
    assert result["prompts"] == 8
    assert lines[1] == ("note: trained-1.0: the test examples have changed; it is evaluated again.")
    rows = (tmp_path / "out/samples/trained-1.0.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["prompt"] == puzzles[1][0]
    # The same examples again; and a point of an older version, which cannot be checked.
    point = tmp_path / "out/samples/trained-1.0.json"
    before = point.stat().st_mtime_ns
    assert not any("again" in x for x in evaluate(puzzles[1:9])[1])
    assert point.stat().st_mtime_ns == before
    values = json.loads(point.read_text())
    del values["asked"]["test_sha256"]
    point.write_text(json.dumps(values))
    evaluate(puzzles[1:9])
    assert json.loads(point.read_text()) == values
    # Other settings of the task are another choice.
    assert evaluate(puzzles[:8], "other", **{"task.reward": "cell_fraction"})[1] == []


def test_evaluation_resumes_after_the_last_complete_point(weights, tmp_path, monkeypatch):
    config = least(**{"model.weights": str(weights)})
    first = score.score(config, str(tmp_path / "out"))
    (tmp_path / "out/samples/published-1.0.json").unlink()
    made, write = [], files.write_jsonl

    def watched(path, rows):
        made.append(pathlib.Path(path).name)
        write(path, rows)

    monkeypatch.setattr(files, "write_jsonl", watched)
    assert score.score(config, str(tmp_path / "out"))["points"] == first["points"]
    assert made == ["published-1.0.jsonl"]


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "x"])
def test_a_point_that_is_missing_or_damaged_is_evaluated(tmp_path, text):
    path = tmp_path / "trained-1.0.json"
    if text is not None:
        path.write_text(text)
    asked = {"test_sha256": "", "metrics": [], "functions": {}}
    assert not score._is_current(path, asked)
    path.write_text('{"asked": {"test_sha256": ""}}')  # older versions knew no metrics
    assert score._is_current(path, asked)


def test_another_number_of_prompts_is_another_evaluation(weights, tmp_path):
    """With another number of test prompts all points are computed again."""
    fields = {"model.weights": str(weights), "evaluation.gammas": (0.1,)}
    for count in (8, 16):
        config = least(**fields, **{"evaluation.examples": count})
        result = score.score(config, str(tmp_path / "out"))
        rows = (tmp_path / "out/samples/published-0.1.jsonl").read_text().splitlines()
        assert len(rows) == result["prompts"] == count


def test_scoring_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="no model to score"):
        score.score(least(), str(tmp_path))
    config = least(**{"model.weights": str(tmp_path / "nothing")})
    with pytest.raises(UserError, match="is neither a directory nor a hub name"):
        score.score(config, str(tmp_path / "out"))
