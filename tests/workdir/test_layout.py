"""A workdir belongs to one configuration."""

import dataclasses
import json
import os
import pathlib

import pytest
from least import least

from diffpo_jax.config import Config, convert, resolve
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import layout

CONFIG = resolve.resolve(Config())


def test_opening_twice_with_the_same_configuration_keeps_the_run(tmp_path):
    first = layout.open_workdir(str(tmp_path / "a/b"), CONFIG, overwrite=False)
    first.metrics.write_text("kept\n")
    layout.record(first, CONFIG)
    again = layout.open_workdir(str(tmp_path / "a/b"), CONFIG, overwrite=False)
    layout.record(again, CONFIG)
    assert again.metrics.read_text() == "kept\n"
    assert convert.from_json(again.config.read_text()) == CONFIG


def test_a_start_that_fails_leaves_the_workdir_free(tmp_path):
    """Until the configuration is recorded, another may take its place."""
    layout.open_workdir(str(tmp_path), CONFIG, overwrite=False)
    other = dataclasses.replace(CONFIG, seed=7)
    workdir = layout.open_workdir(str(tmp_path), other, overwrite=False)
    layout.record(workdir, other)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 7


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    layout.record(layout.open_workdir(str(tmp_path), CONFIG, overwrite=False), CONFIG)
    other = dataclasses.replace(CONFIG, seed=7)
    with pytest.raises(UserError, match=r"config.seed: 0 -> 7"):
        layout.open_workdir(str(tmp_path), other, overwrite=False)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    workdir = layout.open_workdir(str(tmp_path), CONFIG, overwrite=False)
    layout.record(workdir, CONFIG)
    workdir.metrics.write_text("old\n")
    workdir.rl.mkdir(parents=True)
    (workdir.evaluations / "one").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    other = dataclasses.replace(CONFIG, seed=7)
    layout.record(layout.open_workdir(str(tmp_path), other, overwrite=True), other)
    assert not workdir.metrics.exists()
    assert not workdir.rl.exists()
    assert not workdir.evaluations.exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads(workdir.config.read_text())["seed"] == 7


def test_a_path_below_a_file_is_refused_with_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the workdir") as caught:
        layout.open_workdir(str(tmp_path / "file" / "run"), CONFIG, overwrite=False)
    assert "--workdir" in str(caught.value)


def test_a_bucket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="gs://bucket/run is not a directory"):
        layout.open_workdir("gs://bucket/run", CONFIG, overwrite=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[]", "{", "nothing"])
def test_a_damaged_configuration_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        UserError, match=r"config\.json is not the configuration of a run"
    ) as caught:
        layout.open_workdir(str(tmp_path), CONFIG, overwrite=False)
    assert "\n" not in str(caught.value)


def test_overwriting_that_is_killed_leaves_no_checkpoints(tmp_path, monkeypatch):
    """Killed after any of its moves, it leaves the configuration while there are checkpoints."""
    for moves in range(1, 5):
        root = tmp_path / str(moves)
        (root / "checkpoints/rl/1").mkdir(parents=True)
        for name in ("config.json", "metrics.jsonl", "inputs.json"):
            (root / name).write_text("{}")
        done = []

        def rename(path, target, moves=moves, done=done):
            if len(done) == moves:
                raise KeyboardInterrupt
            done.append(path.name)
            os.rename(path, target)

        monkeypatch.setattr(pathlib.Path, "rename", rename)
        try:
            layout._remove_run(root)
        except KeyboardInterrupt:
            assert (root / "config.json").exists()
        monkeypatch.undo()
        assert not (root / "checkpoints").exists()
        layout._remove_run(root)  # the next start with --overwrite
        assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (b"[]", "must be a JSON object"),
        (b'{"seed": 0, "rl"', "Expecting"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"rl": null}', "config.rl"),
        (b'{"rl": {"optimizer": [], "head": "x"}}', "config.rl"),
        (b'{"rl": {"steps": 1e999}}', "config.rl.steps"),
        (b'{"rl": {"optimizer": {"kind": "adafactor"}}, "sampler": 3}', "config.sampler"),
        (b'{"task": {"jsonl": {"held_out": 1' + b"0" * 400 + b"}}}", "too large"),
        (b'{"pretrain": {"demonstrations": {"difficulty": []}}}', "two rising numbers"),
        (b'{"a.b": 1}', "a.b"),
        (b'{"model_type": "llada", "d_model": 64}', "name it in config.model.weights"),
    ],
)
def test_a_damaged_configuration_is_one_line_that_names_the_file(tmp_path, content, words):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        layout.read_config(layout.Workdir(tmp_path))
    text = str(error.value)
    assert words in text and str(tmp_path) in text
    assert "\n" not in text and len(text) < 400


def test_runs_that_come_from_each_other_are_named(tmp_path):
    for name, before in (("a", "b"), ("b", "a"), ("alone", "alone"), ("first", None)):
        (tmp_path / name).mkdir()
        source = str(tmp_path / before) if before else None
        saved = json.loads(convert.to_json(least(init_from=source)))
        (tmp_path / name / "config.json").write_text(json.dumps(saved))
    for name in ("a", "alone"):
        with pytest.raises(UserError, match="leads in a circle"):
            list(layout.origins(least(init_from=str(tmp_path / name))))
    found = list(layout.origins(least(init_from=str(tmp_path / "first"))))
    assert [one.init_from for one in found] == [None]
