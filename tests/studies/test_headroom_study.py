import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from least import SHORT

from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.analysis.headroom import choose_dials
from diffpo_jax.config import HeadroomConfig
from diffpo_jax.report import headroom as report
from diffpo_jax.studies import headroom

ROOT = pathlib.Path(__file__).parents[2]
RUN = SHORT | {"task.sudoku.train_examples": 64, "pretrain.steps": 2, "rl.steps": 2}
RUN |= {"rl.optimizer.decay": "none"}  # of so few updates none is left after the warm-up


def examined(rng, count):
    """Prompts of two kinds: the fast dial solves the one, the slow dial both."""
    easy = rng.random(count) < 0.5
    features = rng.normal(size=(count, 5)).astype(np.float32)
    features[:, 2] += np.where(easy, 3.0, -3.0)
    fast = Outcomes(easy * 1.0, np.full(count, 2.0))
    slow = Outcomes(np.ones(count), np.where(easy, 6.0, 8.0))
    return headroom.Examined(features, [fast, slow])


def test_the_choice_is_learned_from_what_the_prompt_tells():
    rng = np.random.default_rng(0)
    known, new = examined(rng, 1000), examined(rng, 400)
    config = HeadroomConfig(width=16, steps=400, learning_rate=1e-2)
    expected = headroom.predict(known, new.features, config, seed=0)
    for found, actual in zip(expected, new.points):
        assert np.abs(found.correct - actual.correct).mean() < 0.05
        assert np.abs(found.nfe - actual.nfe).mean() < 0.3
    chosen = choose_dials(expected, new.points, (0.02,))[0]
    assert chosen.correct.mean() > 0.98  # as the slow dial, in fewer calls
    assert chosen.nfe.mean() == pytest.approx((2 + 8) / 2, abs=0.4)
    again = headroom.predict(known, new.features, config, seed=0)
    np.testing.assert_array_equal(again[0].correct, expected[0].correct)


def test_features_that_tell_nothing_give_one_dial_for_all():
    rng = np.random.default_rng(1)
    known, new = examined(rng, 1000), examined(rng, 400)
    noise = [one._replace(features=rng.normal(size=one.features.shape)) for one in (known, new)]
    config = HeadroomConfig(width=16, steps=400)
    expected = headroom.predict(noise[0], noise[1].features, config, seed=0)
    chosen = choose_dials(expected, new.points, (0.01,))[0]
    # The fast dial is right for half of the prompts: worth four or six calls at this price.
    assert (chosen.nfe == new.points[1].nfe).mean() > 0.95


RESULT = {
    "rule": "entropy_sum",
    "base": {
        "entropy_sum": [{"accuracy": 0.9, "nfe": 8.0}, {"accuracy": 0.5, "nfe": 2.0}],
        "confidence": [{"accuracy": 0.8, "nfe": 4.0}, {"accuracy": 0.4, "nfe": 2.0}],
    },
    "predicted": [{"accuracy": 0.7, "nfe": 4.0}, {"accuracy": 0.5, "nfe": 2.0}],
    "hindsight": [{"accuracy": 0.95, "nfe": 5.0}, {"accuracy": 0.85, "nfe": 3.0}],
    "trained": [{"accuracy": 0.97, "nfe": 5.0}, {"accuracy": 0.91, "nfe": 3.0}],
    "gain_predicted": {"gain": 0.012, "low": -0.01, "high": 0.034},
    "settings": {"mode": "sampler", "rule": "state", "training_prompts": 8, "test_prompts": 4},
}


def test_the_table_by_hand():
    text = report.as_text(RESULT)
    lines = [line.split() for line in text.splitlines()]
    row = next(line for line in lines if line and line[0] == "4.00")
    # At 4 calls: 0.5 + 0.4 / 3 for one threshold, 0.8 for the best rule, and so on.
    assert [float(x) for x in row[1::2]] == [63.3, 80.0, 70.0, 90.0, 94.0]
    assert next(line for line in lines if line and line[0] == "2.00")[-2:] == ["-", "-"]
    assert "gains +1.2 points over one for all (-1.0 to +3.4)" in " ".join(text.split())


@pytest.mark.slow
def test_the_command_writes_the_page(tmp_path):
    out = subprocess.run(
        [
            *(sys.executable, "-m", "diffpo_jax.study", f"--workdir={tmp_path}"),
            "--config=configs/studies/headroom.py:smoke",
            *("--config.headroom.prompts=40", "--config.headroom.steps=150"),
            *(f"--config.run.{name}={value}" for name, value in RUN.items()),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ,
    )
    assert out.returncode == 0, out.stderr
    result = json.loads((tmp_path / "report/headroom.json").read_text())
    assert result["settings"]["training_prompts"] == 40
    assert set(result["base"]) == {"entropy_sum", "entropy_bounded", "confidence"}
    assert len(result["predicted"]) == len(result["hindsight"]) == len(result["prices"])
    for name in ("headroom.png", "headroom.svg"):
        assert (tmp_path / "report" / name).stat().st_size > 1000
    with open(tmp_path / "report/headroom.csv") as file:
        assert len({row["choice"] for row in csv.DictReader(file)}) == 6
    assert "best fixed rule" in out.stdout


def test_it_needs_a_threshold_and_no_arms(tmp_path):
    for flag, message in (
        ("--config.run.sampler.rule=confidence", "chooses thresholds, but the base decodes by"),
        ("--config.grid.arms=('a: mode=joint',)", "without config.grid.arms"),
    ):
        out = subprocess.run(
            [
                *(sys.executable, "-m", "diffpo_jax.study", f"--workdir={tmp_path}"),
                *("--config=configs/studies/headroom.py:smoke", "--config.run.mode=model", flag),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert out.returncode == 2
        assert message in out.stderr.strip().splitlines()[-1]
