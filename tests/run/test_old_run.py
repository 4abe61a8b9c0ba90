"""A run that commit 8a4d0c8 made, before the package had its present layout.

old_run.tar.xz has its files without figures and data.  It was made on two CPU cores by
`python -m diffpo_jax.main --config=configs/sudoku.py:smoke` with the overrides in its
run_info.json, with a checkpoint at RL steps 2 and 4 of 4.
"""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest

from diffpo_jax.run import experiment
from diffpo_jax.workdir import layout

ROOT = pathlib.Path(__file__).parents[2]
ARCHIVE = pathlib.Path(__file__).with_name("old_run.tar.xz")


@pytest.fixture
def workdir(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def lines(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


@pytest.mark.slow
def test_an_old_run_resumes(workdir, capsys):
    before = lines(workdir)
    summary = json.loads((workdir / "report/summary.json").read_text())
    shutil.rmtree(workdir / "checkpoints/rl/4")
    shutil.rmtree(workdir / "report")
    config = layout.read_config(layout.Workdir(workdir))
    # Other rules for the base are newer than the run, and compile more programs.
    own = dataclasses.replace(config.evaluation, base_rules=())
    again = experiment.run(dataclasses.replace(config, evaluation=own), str(workdir))
    notes = [x for x in capsys.readouterr().err.splitlines() if "an older version" in x]
    assert len(notes) == 1 and "training examples" in notes[0]
    assert json.loads((workdir / "inputs.json").read_text())["train"]["rows"] > 0
    after = lines(workdir)
    newer = [row.keys() - {"eval/reward"} for row in after]
    assert newer == [row.keys() for row in before]
    # What was there stays as it was.  Later steps may differ by rounding on another processor.
    assert after[:-2] == before[:-2]
    assert after[-2]["groups/equal"] == pytest.approx(before[-2]["groups/equal"], abs=0.5)
    assert again.keys() == summary.keys() | {
        "base_rule",
        "hindsight",
        "shown",
        "steps",
    }  # newer than it
    assert again["base"].keys() - {"rules"} == summary["base"].keys()
    assert (workdir / "report/frontier.png").exists()


def test_an_old_run_may_be_continued_with_more_steps(workdir):
    config = layout.read_config(layout.Workdir(workdir))
    longer = dataclasses.replace(config, rl=dataclasses.replace(config.rl, steps=6))
    layout.open_workdir(str(workdir), longer, overwrite=False)


def test_an_old_run_has_a_page(workdir):
    out = workdir.parent / "page.html"
    command = [sys.executable, "-m", "diffpo_jax.report", f"--workdir={workdir}", f"--out={out}"]
    subprocess.run(command, cwd=ROOT, check=True)
    page = out.read_text()
    summary = json.loads((workdir / "report/summary.json").read_text())
    assert "configs/sudoku.py:smoke" in page
    assert summary["commit"][:7] in page
