import csv
import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from diffpo_jax.config import Config, Figure2Config, convert
from diffpo_jax.studies import surrogate_kl
from diffpo_jax.system.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
# Two rollouts of three tokens; the first commits one a call, the second two and then one.
CALLS = np.array([[1, 2, 3], [1, 1, 2]])
MATRIX = np.zeros((2, 3, 3))
MATRIX[0, 1, 0] = 0.4
MATRIX[0, 2, :2] = 0.9, 0.1
MATRIX[1, 2, 0] = 0.6
MEASURED = surrogate_kl.Measured(MATRIX, CALLS, np.ones((2, 3), bool), np.array([3, 2]))
RUN = dataclasses.replace(Config(), seed=3)
CONFIG = Figure2Config(rollouts=1, draws=200, anchors=(1, 2, 3))


@pytest.fixture(scope="module")
def summary():
    return surrogate_kl.summarise(MEASURED, RUN, CONFIG)


def test_one_anchor_gives_the_first_column(summary):
    one = summary["surrogates"]["1"]
    assert [(p["call"], p["tokens"]) for p in one["by_call"]] == [(1, 3), (2, 2), (3, 1)]
    assert [p["kl"] for p in one["by_call"]] == pytest.approx([0.0, 0.5, 0.9])
    assert one["kl_token"] == pytest.approx(1.9 / 6)
    assert one["kl_sequence"] == pytest.approx((1.3 + 0.6) / 2)
    assert one["theorem1_slack"] == pytest.approx(math.sqrt(0.95 / 2))
    # Sums 1.3 and 0.6 over 3 tokens each: residuals 0.35, variance 2 (2 x 0.35^2) / 6^2.
    assert one["standard_error"] == pytest.approx(0.35 * 2 / 6)


def test_a_second_anchor_is_drawn_by_the_share_of_committed_tokens(summary):
    """u is uniform: the anchor is call 1, 2 or 3 of the first rollout, a third each, and call 1
    of the second, which has two thirds of its tokens by then, in two of three draws."""
    two = summary["surrogates"]["2"]["by_call"]
    third = 3 * math.sqrt(2 / 9 / CONFIG.draws)  # three standard errors of a share
    # The first rollout's second token has its anchor at call 1, with D = 0, in a third of draws.
    first, second = 0.4 * 2 / 3, 0.6 * 1 / 3
    assert two[1]["kl"] == pytest.approx((first + second) / 2, abs=third)
    # Its third token's anchor is call 1 (0.1), its own state (0), or the prompt (0.9).
    assert two[2]["kl"] == pytest.approx((0.1 + 0.0 + 0.9) / 3, abs=third)


def test_more_anchors_give_a_smaller_kl(summary):
    means = [summary["surrogates"][k]["kl_token"] for k in ("1", "2", "3")]
    assert means == sorted(means, reverse=True)


def test_the_assumption_matches_a_count_by_hand():
    matrix = MATRIX.copy()
    matrix[0, 2, :2] = 0.1, 0.9  # worse from the later state
    got = surrogate_kl.check_assumption(MEASURED._replace(matrix=matrix))
    # Steps: 0.4 -> 0 | 0.1 -> 0.9 -> 0 | 0.6 -> 0.
    assert got["pairs"] == 4
    assert got["pairs_growing"] == pytest.approx(1 / 4)
    assert got["tokens_holding"] == pytest.approx(2 / 3)
    assert got["mean_by_state"][0]["kl"] == pytest.approx((0.4 + 0.1 + 0.6) / 3)
    assert got["mean_by_state"][0]["kl_next"] == pytest.approx(0.9 / 3)


def study(*flags):
    return subprocess.run(
        [sys.executable, "-m", "diffpo_jax.study", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ
        | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.slow
def test_the_command_writes_figure_2(tmp_path):
    flags = [
        "--config=configs/studies/figure2.py:smoke",
        f"--workdir={tmp_path}",
        "--config.figure2.prompts=6",
        "--config.figure2.rollouts=2",
        "--config.figure2.batch=5",  # does not divide the 12 rollouts
        "--config.run.task.sudoku.train_examples=64",
        "--config.run.pretrain.steps=2",
    ]
    out = study(*flags)
    assert out.returncode == 0, out.stderr
    result = json.loads((tmp_path / "report/figure2.json").read_text())
    assert list(result["surrogates"]) == ["1", "2", "4", "16"]
    assert result["settings"]["prompts"] == 6
    for name in ("figure2.png", "figure2.svg"):
        assert (tmp_path / "report" / name).stat().st_size > 1000
    with open(tmp_path / "report/figure2.csv") as file:
        rows = list(csv.DictReader(file))
    tokens = sum(int(row["tokens"]) for row in rows if row["anchors"] == "1")
    assert tokens == 12 * 16
    assert f"{result['surrogates']['2']['kl_token']:.4f}" in out.stdout
    assert "per sequence" in out.stdout


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.figure2.model=best", "config.figure2.model='best' is unknown"),
        ("--config.run.sampler.rule=state", "which a base has not. Use --config.run.sampler.rule"),
        ("--config.figure2.anchors=(0, 2)", "config.figure2.anchors[0]=0 must be"),
        ("--config.run.rl.step=3", "config.run.rl.step is not a field"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, flag, message):
    out = study("--config=configs/studies/figure2.py:smoke", f"--workdir={tmp_path}", flag)
    assert out.returncode == 2
    assert message in out.stderr.strip().splitlines()[-1]
    assert "Traceback" not in out.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"figure2.prompts": 1}, "config.figure2.prompts=1 must be at least 2"),
        ({"figure2.prompts": -3}, "config.figure2.prompts=-3 must be at least 2"),
    ],
)
def test_error_bars_need_two_prompts(changes, message):
    given = convert.load_module(ROOT / "configs/studies/figure2.py").get_config("smoke")
    given.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        convert.study_from_config_dict(given)


def test_a_task_with_one_test_prompt_is_refused():
    setup = types.SimpleNamespace(task=types.SimpleNamespace(examples=lambda split: [split]))
    with pytest.raises(UserError, match=r"2 test prompts or more .* the task has 1"):
        surrogate_kl._check_prompts(setup)


class Recorder:
    """A run's writer that knows whether it was closed."""

    def __init__(self):
        self.closed = False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_writes_and_every_writer_is_closed(tmp_path, monkeypatch, first):
    given = convert.load_module(ROOT / "configs/studies/figure2.py").get_config("smoke")
    given.figure2.rollouts = 1
    config = convert.study_from_config_dict(given)
    writer, adopted = Recorder(), []
    task = types.SimpleNamespace(examples=lambda split: [split] * 2)
    setup = types.SimpleNamespace(config=config.run, task=task, writer=writer)
    for name, value in {
        "with_weights": lambda run: adopted.append(run) or run,
        "prepare": lambda run, paths: setup,
        "record": lambda setup, run: None,
    }.items():
        monkeypatch.setattr(surrogate_kl.run_setup, name, value)
    monkeypatch.setattr(surrogate_kl.base_model, "make", lambda setup: {})
    monkeypatch.setattr(surrogate_kl, "measure", lambda *_: MEASURED)
    monkeypatch.setattr(surrogate_kl.hosts, "is_first", lambda: first)
    monkeypatch.setattr(surrogate_kl.hosts, "in_turn", lambda action: action())
    surrogate_kl.run(config, str(tmp_path))
    assert writer.closed and adopted == [config.run]
    assert (tmp_path / "report/figure2.json").exists() == first


def test_a_preset_names_the_task():
    for preset, task, steps in (
        ("smoke", "sudoku", 100),
        ("countdown", "countdown", 400),
        ("countdown,smoke", "countdown", 100),
    ):
        run = convert.load_module(ROOT / "configs/studies/figure2.py").get_config(preset).run
        assert (run.task.name, run.rl.steps) == (task, steps)
