"""What a start says about the run."""

import types

import pytest
from least import least

from diffpo_jax.config import MeshConfig
from diffpo_jax.distributed import mesh, sharding
from diffpo_jax.run import outline
from diffpo_jax.workdir import layout


def describe(tmp_path, data=1, base_only=False, **overrides):
    task = types.SimpleNamespace(examples=lambda split: range(1500))
    parts = [sharding.Leaf("a", (1000, 2), "P()", 0.5), sharding.Leaf("b", (7,), "P()", 1.0)]
    setup = types.SimpleNamespace(
        config=least(**overrides),
        workdir=layout.Workdir(tmp_path),
        task=task,
        mesh=mesh.make_mesh(MeshConfig(data=data)),
        parameters=parts,
    )
    return outline.describe(setup, base_only=base_only)


def test_a_new_run(tmp_path):
    assert describe(tmp_path).splitlines() == [
        "sudoku: base model, 3 steps of SFT; then RL, 2 steps of 4 prompts x 2 rollouts (mode "
        "joint, method diffpo_no_is, rule entropy_bounded); then evaluation on 256 test prompts.",
        "2,007 parameters, 1.5 MiB on one cpu device. The first step of a stage compiles, which "
        "takes longer.",
        f"Results: {tmp_path}. The same command goes on where it was stopped.",
    ]


def test_a_run_that_goes_on(tmp_path):
    for step in ("base/3", "rl/1"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    text = describe(tmp_path, data=4, **{"evaluation.examples": None})
    assert "base model, 3 of 3 steps of SFT done; then RL, 1 of 2 steps of 4 prompts" in text
    assert "evaluation on 1,500 test prompts" in text
    assert "1.5 MiB on each of 4 cpu devices" in text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"init_from": "runs/a"}, "base model of runs/a; then"),
        ({"pretrain.steps": 0}, "base model with random weights; then"),
        ({"pretrain.steps": 0, "model.weights": "owner/name"}, "base model owner/name; then"),
    ],
)
def test_base_models_that_are_not_trained(tmp_path, overrides, words):
    assert words in describe(tmp_path, **overrides)


def test_the_base_model_alone(tmp_path):
    assert describe(tmp_path, base_only=True).startswith("sudoku: base model, 3 steps of SFT.\n")
