"""Trackers with stand-ins for their packages, and with the real packages if installed."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from diffpo_jax.config import Config, LoggingConfig
from diffpo_jax.run import setup
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import layout, metrics, trackers

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
ASKED = {"tensorboard": True, "wandb": "project", "trackio": "project"}


def writer(root, configuration=None, **logging):
    made = trackers.make(LoggingConfig(**logging), root, configuration or {})
    return metrics.MetricsWriter(root / "metrics.jsonl", made)


@pytest.mark.parametrize("field", PACKAGES)
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, field):
    monkeypatch.setitem(sys.modules, PACKAGES[field], None)
    with pytest.raises(UserError, match=rf"logging\.{field} .*-e '\.\[{field}\]'"):
        writer(tmp_path, **{field: ASKED[field]})
    assert os.listdir(tmp_path) == []


def test_there_is_no_tracker_by_default(tmp_path):
    assert trackers.make(LoggingConfig(), tmp_path, {}) == []


def test_tensorboard_has_a_directory_per_stage_purged_from_its_first_step(tmp_path, monkeypatch):
    events = []

    class SummaryWriter:
        def __init__(self, directory, purge_step):
            self.name = Path(directory).relative_to(tmp_path).as_posix()
            events.append(("open", self.name, purge_step))

        def add_scalar(self, name, value, step):
            events.append((self.name, name, value, step))

        def flush(self):
            pass

        def close(self):
            events.append(("close", self.name))

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    with writer(tmp_path, tensorboard=True) as lines:
        lines.write("pretrain", 100, {"loss": 2.0}, {})
        lines.write("rl", 4, {"loss": 1.0}, {"step": 3.0})
    assert events == [
        ("open", "tensorboard/pretrain", 100),
        ("tensorboard/pretrain", "loss", 2.0, 100),
        ("open", "tensorboard/rl", 4),
        ("tensorboard/rl", "loss", 1.0, 4),
        ("tensorboard/rl", "time/step", 3.0, 4),
        ("close", "tensorboard/pretrain"),
        ("close", "tensorboard/rl"),
    ]


def test_tensorboard_events_are_written(tmp_path):
    pytest.importorskip("tensorboardX")
    with writer(tmp_path, tensorboard=True) as lines:
        lines.write("rl", 1, {"loss": 2.0}, {})
    (events,) = (tmp_path / "tensorboard" / "rl").iterdir()
    assert b"loss" in events.read_bytes()


class Package:
    """Stands in for wandb and for trackio: one run, which records its calls."""

    def __init__(self):
        self.calls = []

    def init(self, **arguments):
        self.calls.append(("init", arguments))
        return self

    def define_metric(self, name, step_metric):
        self.calls.append(("define", name, step_metric))

    def log(self, numbers, **more):
        self.calls.append(("log", numbers | more))

    def finish(self):
        self.calls.append(("finish",))


@pytest.mark.parametrize("field", ["wandb", "trackio"])
def test_a_resumed_run_continues_the_same_tracker_run(tmp_path, monkeypatch, field):
    begun = []
    for root, step in [("a", 1), ("a", 2), ("b", 1)]:
        package = Package()
        monkeypatch.setitem(sys.modules, field, package)
        (tmp_path / root).mkdir(exist_ok=True)
        with writer(tmp_path / root, {"seed": 3}, **{field: "sudoku"}) as lines:
            assert package.calls == []  # a command that only reads starts no run
            lines.write("rl", step, {"loss": 2.0}, {"step": 0.5})
            lines.write("rl", step + 1, {}, {})
        first = package.calls[0][1]
        assert (first["project"], first["resume"]) == ("sudoku", "allow")
        assert first["config"] == {"seed": 3}
        assert [call[0] for call in package.calls].count("init") == 1
        begun.append(first.get("id") or first["name"])
        logged = next(call[1] for call in package.calls if call[0] == "log")
        axis = "rl/step" if field == "wandb" else "step"
        assert logged == {"rl/loss": 2.0, "rl/time/step": 0.5, axis: step}
        assert package.calls[-1] == ("finish",)
    assert begun[0] == begun[1] != begun[2]
    kept = json.loads((tmp_path / "a" / "trackers.json").read_text())
    assert kept["id"] in begun[0]


def test_each_stage_has_its_own_step_axis_in_wandb(tmp_path, monkeypatch):
    package = Package()
    monkeypatch.setitem(sys.modules, "wandb", package)
    with writer(tmp_path, wandb="p") as lines:
        for stage in ("pretrain", "pretrain", "rl"):
            lines.write(stage, 1, {}, {})
    assert [call[1:] for call in package.calls if call[0] == "define"] == [
        ("pretrain/*", "pretrain/step"),
        ("rl/*", "rl/step"),
    ]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    package = Package()
    monkeypatch.setitem(sys.modules, "wandb", package)
    config = Config(logging=LoggingConfig(wandb="p"))
    for first in (False, True):
        with setup.make_writer(config, layout.Workdir(tmp_path), first=first) as lines:
            assert os.path.exists(tmp_path / "metrics.jsonl") == first
            lines.write("rl", 1, {"loss": 2.0}, {})
            assert bool(package.calls) == first
    assert package.calls[0][1]["config"]["logging"]["wandb"] == "p"
    assert len(metrics.read(tmp_path / "metrics.jsonl")) == 1


PROGRAM = """
import pathlib, sys
from diffpo_jax.workdir import metrics, trackers
from diffpo_jax.config import LoggingConfig
root = pathlib.Path(sys.argv[1])
made = trackers.make(LoggingConfig(**{sys.argv[2]: "sudoku"}), root, {"seed": 3})
with metrics.MetricsWriter(root / "m", made) as lines:
    lines.write("pretrain", 5, {"loss": 3.0}, {})
    lines.write("rl", int(sys.argv[3]), {"loss": 2.0}, {"step": 0.5})
"""


@pytest.mark.slow
@pytest.mark.parametrize("field", ["wandb", "trackio"])
def test_the_real_packages_work_without_a_network(tmp_path, field):
    pytest.importorskip(field)
    own = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}
    for step in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), field, step],
            capture_output=True,
            text=True,
            env=os.environ | own | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == 0, done.stderr
        assert f"warning: {field}" not in done.stderr
    kept = json.loads((tmp_path / "trackers.json").read_text())["id"]
    if field == "wandb":
        runs = list((tmp_path / "wandb").glob("offline-run-*"))
        assert len(runs) == 2  # a directory per process with one id: syncing joins them
        assert all(run.name.endswith(kept) for run in runs)
    else:
        import sqlite3

        (base,) = (tmp_path / "trackio").glob("sudoku*.db")
        rows = sqlite3.connect(base).execute("SELECT run_name, step FROM metrics").fetchall()
        assert {name for name, _ in rows} == {f"{tmp_path.name}-{kept}"}
        assert sorted(step for _, step in rows) == [1, 2, 5, 5]


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_a_damaged_id_is_one_line(tmp_path, text):
    (tmp_path / "trackers.json").write_text(text)
    with pytest.raises(UserError, match=r"trackers\.json has no id of a run"):
        trackers.run_id(tmp_path)
