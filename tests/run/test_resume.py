"""A run that is ended at five moments and resumed differs in nothing but its `time/` fields.

Three times it is ended by kill -9, once by SIGTERM, which machines send before they are taken
away, and once by Ctrl-C.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from least import SHORT

from diffpo_jax.system.errors import STOPPED

ROOT = pathlib.Path(__file__).parents[2]
STEPS = {"pretrain": 200, "rl": 8}
RUN = SHORT | {f"{stage}.steps": steps for stage, steps in STEPS.items()}


def start(workdir: pathlib.Path, cache: pathlib.Path, log) -> subprocess.Popen:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # one device, quickly compiled
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "diffpo_jax.main",
            "--config=configs/sudoku.py:smoke",
            *(f"--config.{name}={value}" for name, value in RUN.items()),
            "--config.model.layers=1",  # every restart compiles every layer again
            "--config.rl.candidates=2",  # so that its state must be restored too
            f"--workdir={workdir}",
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=log,
    )


def lines(workdir: pathlib.Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def reached(workdir: pathlib.Path, stage: str, step: int) -> bool:
    return any(line["stage"] == stage and line["step"] >= step for line in lines(workdir))


def saving(workdir: pathlib.Path) -> bool:
    return any(workdir.glob("checkpoints/*/*orbax-checkpoint-tmp*"))


# When to end it, in order, and how.  kill -9 comes up to 0.2 s after its moment.
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
STOPS = {TERM: "SIGTERM", INT: "Ctrl-C"}  # the signals after which the step is saved
MOMENTS = {
    "pretraining": (TERM, lambda w: reached(w, "pretrain", 4)),
    "saving": (KILL, saving),
    "first RL steps": (KILL, lambda w: reached(w, "rl", 1)),
    "later RL steps": (INT, lambda w: reached(w, "rl", 5)),
    "evaluating": (KILL, lambda w: reached(w, "rl", STEPS["rl"])),
}


def check_stopped(workdir: pathlib.Path, log: pathlib.Path, cause: str) -> None:
    """The last metrics line is at the newest checkpoint, and the log ends with its message."""
    last = lines(workdir)[-1]
    stage = {"pretrain": "base", "rl": "rl"}[last["stage"]]
    steps = [int(p.name) for p in (workdir / "checkpoints" / stage).iterdir()]
    assert max(steps) == last["step"]
    assert log.read_text().splitlines()[-1] == (
        f"{last['stage']}: stopped at step {last['step']} after {cause}; the same command "
        "resumes there."
    )


def params_of(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore((workdir / f"checkpoints/rl/{STEPS['rl']}/params").absolute())
    import jax

    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in flat}


def without_times(line: dict) -> dict:
    return {k: v for k, v in line.items() if not k.startswith("time/")}


@pytest.mark.slow
def test_a_run_ended_five_times_equals_an_uninterrupted_one(tmp_path):
    chance = random.Random(0)
    cache = tmp_path / "cache"
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    with open(tmp_path / "log", "w") as log:
        assert start(whole, cache, log).wait(timeout=400) == 0, (tmp_path / "log").read_text()
        for name, (ending, moment) in MOMENTS.items():
            process = start(torn, cache, log)
            limit = time.monotonic() + 200
            while not moment(torn):
                assert process.poll() is None, f"ended before {name}"
                assert time.monotonic() < limit, f"never came to {name}"
                time.sleep(0.001)
            if ending == KILL and name != "saving":
                time.sleep(chance.uniform(0, 0.2))
            process.send_signal(ending)
            status = process.wait(timeout=100)
            assert status == (STOPPED if ending in STOPS else -KILL), f"{status} while {name}"
            if ending in STOPS:
                check_stopped(torn, tmp_path / "log", STOPS[ending])
        assert start(torn, cache, log).wait(timeout=400) == 0, (tmp_path / "log").read_text()

    expected, got = ([without_times(x) for x in lines(w)] for w in (whole, torn))
    assert [(x["stage"], x["step"]) for x in expected] == (
        [("pretrain", i + 1) for i in range(STEPS["pretrain"])]
        + [("rl", i) for i in range(STEPS["rl"] + 1)]
    )
    assert got == expected
    ours, theirs = params_of(whole), params_of(torn)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(theirs[name], ours[name], err_msg=name)
    summaries = [json.loads((w / "report/summary.json").read_text()) for w in (whole, torn)]
    for summary in summaries:
        del summary["wall_seconds"]
    assert summaries[0] == summaries[1]
    for name in ("test.jsonl", "rl-000004.jsonl", "rl-000008.jsonl"):
        assert (torn / "samples" / name).read_bytes() == (whole / "samples" / name).read_bytes()
