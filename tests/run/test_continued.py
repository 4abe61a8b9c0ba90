"""Two RL steps, then four: the numbers of an uninterrupted run.

tests/run/test_resume.py resumes from the command line.
"""

import json

import pytest
from least import least

from diffpo_jax.run import experiment


def train(workdir, steps):
    experiment.run(least(**{"rl.steps": steps}), str(workdir))
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith("time/")}
        for line in lines
    ]


@pytest.mark.slow
def test_a_run_that_is_continued_equals_an_uninterrupted_one(tmp_path):
    train(tmp_path / "continued", 2)
    assert train(tmp_path / "continued", 4) == train(tmp_path / "whole", 4)
