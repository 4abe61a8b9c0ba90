"""A run that has lost a part says so before it computes anything."""

import json

import pytest
from least import least

from diffpo_jax.run import experiment
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import layout

LINES = [{"stage": "pretrain", "step": 3}, {"stage": "rl", "step": 1}]


def check(root, steps=("base/3", "rl/1"), lines=LINES, **overrides):
    """Checks a workdir with these checkpoints and metrics; `least` has 3 and 2 steps."""
    for step in steps:
        (root / "checkpoints" / step).mkdir(parents=True)
    if lines is not None:
        (root / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    experiment._check_parts(layout.Workdir(root), least(**overrides))


@pytest.mark.parametrize("steps", [(), ("base/2",), ("base/3",), ("base/3", "rl/1")])
def test_a_run_with_all_its_parts_goes_on(tmp_path, capsys, steps):
    check(tmp_path, steps)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("steps", [("rl/1",), ("base/2", "rl/1")])
def test_rl_needs_the_base_model_that_it_began_from(tmp_path, steps):
    with pytest.raises(
        UserError, match=r"base has no whole step 3, .* went on to step 1\. Put it back"
    ):
        check(tmp_path, steps)


@pytest.mark.parametrize("overrides", [{"init_from": "elsewhere"}, {"pretrain.steps": 0}])
def test_a_run_without_sft_of_its_own_has_no_base_to_lose(tmp_path, overrides):
    check(tmp_path, ("rl/1",), **overrides)


@pytest.mark.parametrize("lines", [None, [], LINES[:1]])
def test_the_report_needs_a_line_of_rl(tmp_path, lines):
    with pytest.raises(UserError, match=r"metrics.jsonl has no line of RL, .* Put the file back"):
        check(tmp_path, ("base/3", "rl/2"), lines)


@pytest.mark.parametrize("lines", [None, []])
def test_lost_metrics_are_named_if_steps_are_left(tmp_path, capsys, lines):
    check(tmp_path, lines=lines)
    assert "metrics.jsonl is empty or missing; curves and times begin here" in (
        capsys.readouterr().err
    )
