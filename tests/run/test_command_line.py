"""Two RL steps from the command line, then four: the numbers of an uninterrupted run."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from least import LEAST

ROOT = pathlib.Path(__file__).parents[2]


def train(workdir, steps):
    flags = [f"--config.{name}={value}" for name, value in (LEAST | {"rl.steps": steps}).items()]
    command = [sys.executable, "-m", "diffpo_jax.main", "--config=configs/sudoku.py:smoke"]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    subprocess.run(
        [*command, f"--workdir={workdir}", *flags], cwd=ROOT, env=environment, check=True
    )
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith("time/")}
        for line in lines
    ]


@pytest.mark.slow
def test_a_run_that_is_continued_equals_an_uninterrupted_one(tmp_path):
    train(tmp_path / "continued", 2)
    assert train(tmp_path / "continued", 4) == train(tmp_path / "whole", 4)
