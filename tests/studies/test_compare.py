"""A study with real runs: one is killed half-way, and one has a broken configuration."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from least import LEAST

from diffpo_jax.workdir import metrics

ROOT = pathlib.Path(__file__).parents[2]
FIELDS = LEAST | {"rl.steps": 6, "evaluation.factors": (2.0,)}
ARMS = ("one: method=d1", "broken: task.test_file=/nothing.csv", "two: mode=model")


def start(tmp_path, *flags, seeds="(3,)", arms=ARMS):
    common = tuple(f"{name}={value}".replace(" ", "") for name, value in FIELDS.items())
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "diffpo_jax.study",
            "--config=configs/studies/figure3.py:smoke",
            "--config.grid.tasks=('configs/sudoku.py:smoke',)",
            f"--config.grid.arms={arms}",
            f"--config.grid.common={common}",
            f"--config.grid.seeds={seeds}",
            "--config.grid.reference=one",
            f"--workdir={tmp_path}/study",
            *flags,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"},
    )


def find_process(workdir):
    """The process that runs in a workdir, found by its command line."""
    wanted = f"--workdir={workdir}".encode()
    for place in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if wanted in place.read_bytes().split(b"\0"):
                return int(place.parent.name)
        except OSError:
            continue
    return None


def kill_half_way(tmp_path):
    """Kills the first run after some steps of RL; returns its id."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        for file in tmp_path.glob("store/*/metrics.jsonl"):
            steps = [line["step"] for line in metrics.read(file) if line["stage"] == "rl"]
            if max(steps, default=0) >= 2 and (process := find_process(file.parent)):
                os.kill(process, signal.SIGKILL)
                return file.parent.name
        time.sleep(0.05)
    raise AssertionError("no run reached RL")


@pytest.mark.slow
def test_a_study_reports_a_killed_and_a_broken_run_and_resumes_the_first(tmp_path):
    study = start(tmp_path)
    try:
        killed = kill_half_way(tmp_path)
        out, err = study.communicate(timeout=400)
    finally:
        study.kill()
    assert study.returncode == 0, err
    listed = json.loads((tmp_path / "study/study.json").read_text())["runs"]
    states = {run["arm"]: run for run in listed}
    assert states["broken"]["state"] == "failed"
    assert "/nothing.csv" in states["broken"]["error"]
    assert states["one"]["id"] == killed
    assert states["one"]["state"] == "failed"
    assert states["two"]["state"] == "done"
    assert "FAILED sudoku:smoke broken seed 3" in out

    again = start(tmp_path)
    out, err = again.communicate(timeout=400)
    assert again.returncode == 0, err
    result = json.loads((tmp_path / "study/report/results.json").read_text())
    tables = (tmp_path / "study/report/tables.md").read_text()
    assert all(f"## {table['title']}\n" in tables for table in result["tables"])
    assert [row[0] for row in result["tables"][0]["rows"]] == ["one", "two"]
    assert len(result["missing"]) == 1
    assert "broken" in result["missing"][0]
    rows = metrics.read(tmp_path / "store" / killed / "metrics.jsonl")
    assert [row["step"] for row in rows if row["stage"] == "rl"] == list(range(7))
    summary = json.loads((tmp_path / "store" / killed / "report/summary.json").read_text())
    assert [point["factor"] for point in summary["scaled"]] == [2.0]
    assert "against one" in out

    collected = start(tmp_path, "--collect")
    out, err = collected.communicate(timeout=100)
    assert collected.returncode == 0, err
    assert json.loads((tmp_path / "study/report/results.json").read_text()) == result


@pytest.mark.parametrize(
    ("flags", "changes", "message"),
    [
        ([], {"arms": ("one: rl.step=3",)}, "config.rl.step is not a field"),
        ([], {"seeds": "()"}, "config.grid.seeds=() must not be empty"),
        (["--emit=xpk"], {}, "must be gs://BUCKET/PATH"),
        (["--collect"], {}, "none of its runs is done"),
    ],
)
def test_a_mistake_is_an_error_before_anything_runs(tmp_path, flags, changes, message):
    out, err = (process := start(tmp_path, *flags, **changes)).communicate(timeout=100)
    assert process.returncode == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
