"""A file of a run that has changed is named; one that has grown is not."""

import json

import pytest

from diffpo_jax.workdir import digests, layout


def make(root):
    workdir = layout.Workdir(root)
    for path in (workdir.metrics, workdir.inputs, workdir.report / "summary.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{path.name}\n")
    workdir.samples.mkdir()
    (workdir.samples / "rl-1.jsonl").write_text("{}\n")
    (workdir.samples / ".rl-2.jsonl.0.tmp").write_text("what a kill left")
    return workdir


def test_metrics_may_grow_and_samples_may_come(tmp_path):
    workdir = make(tmp_path)
    taken = digests.take(workdir)
    assert {name: size for name, (size, _) in taken.items()} == {
        "metrics.jsonl": 14,
        "samples/rl-1.jsonl": 3,
    }
    with workdir.metrics.open("a") as file:
        file.write("more\n")
    (workdir.samples / "rl-2.jsonl").write_text("{}\n")
    # As a checkpoint gives them again.
    assert digests.changed(workdir, json.loads(json.dumps(taken))) == []


def test_samples_are_read_again_only_if_they_change(tmp_path, monkeypatch):
    workdir, read = make(tmp_path), []
    whole = digests._sha256
    monkeypatch.setattr(digests, "_sha256", lambda *a: read.append(a[0].name) or whole(*a))
    first = digests.take(workdir)
    assert digests.take(workdir) == first and read == ["metrics.jsonl", "rl-1.jsonl"]
    (workdir.samples / "rl-1.jsonl").write_text("[1]\n")
    assert digests.take(workdir) != first and read[2:] == ["rl-1.jsonl"]


@pytest.mark.parametrize("content", [b"Metrics.jsonl\n", b"metrics.json", b"", None])
def test_changed_lines_are_named(tmp_path, content):
    workdir = make(tmp_path)
    taken = digests.take(workdir)
    if content is None:
        workdir.metrics.unlink()
    else:
        workdir.metrics.write_bytes(content)
    assert digests.changed(workdir, taken) == ["metrics.jsonl"]


def test_a_finished_run_has_digests_of_its_report(tmp_path):
    workdir = make(tmp_path)
    assert digests.read(workdir) == {}  # of an older version
    (workdir.report / "index.html").write_text("which `report` writes again")
    digests.record(workdir)
    recorded = digests.read(workdir)
    assert sorted(recorded) == [
        "inputs.json",
        "metrics.jsonl",
        "report/summary.json",
        "samples/rl-1.jsonl",
    ]
    assert digests.changed(workdir, recorded) == []
    (workdir.report / "summary.json").write_text("summary.jsom\n")
    assert digests.changed(workdir, recorded) == ["report/summary.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"metrics.jsonl": 1}', '{"metrics.jsonl": ["', "1"])
def test_damaged_digests_are_named_themselves(tmp_path, content):
    workdir = make(tmp_path)
    workdir.digests.write_text(content)
    assert digests.changed(workdir, digests.read(workdir)) == ["digests.json"]
