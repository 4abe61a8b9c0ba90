"""Parts of the trainer that need no device; whole runs are in tests/test_experiment.py."""

import dataclasses
import types

import numpy as np
import pytest

from diffpo_jax.arrays.types import Rollout
from diffpo_jax.config import (
    LoRAConfig,
    ModelConfig,
    ObjectiveConfig,
    RLConfig,
    SamplerConfig,
    TokenizerConfig,
)
from diffpo_jax.data import tokenizers
from diffpo_jax.evaluation import grading
from diffpo_jax.models import flops
from diffpo_jax.rl import trainer
from diffpo_jax.tasks.task import Reward

TOKENIZER = tokenizers.make_tokenizer(TokenizerConfig(alphabet="0123456789"))
END = tokenizers.end_ids(TOKENIZER)[0]
TOKENS = np.array([[5, END, END], [5, 6, 7], [END, 5, 6], [5, 6, END]])
REWARDS = np.array([1.0, 0.0, 0.0, 1.0])


def some_trainer(**objective):
    config = RLConfig(group=2, objective=ObjectiveConfig(advantage="mean", **objective))
    config = dataclasses.replace(
        config, speed=dataclasses.replace(config.speed, weight=0.3, form="additive")
    )
    return trainer.Trainer(*[None] * len(trainer.Trainer._fields))._replace(
        config=config, sampler=SamplerConfig(length=3), tokenizer=TOKENIZER
    )


def graded():
    rollout = Rollout(*[None] * len(Rollout._fields))._replace(
        tokens=TOKENS, nfe=np.array([1, 3, 2, 3]), forced=np.array([True, False, False, False])
    )
    rewards = [Reward(total=x, parts={}, correct=bool(x), parsed=True) for x in REWARDS]
    return grading.Graded(rollout, [], [], rewards)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ({}, [0.5, -0.5, -0.5, 0.5]),
        # The group's mean keeps them: what is left out teaches nothing, but is compared with.
        ({"drop_forced": True}, [0.0, -0.5, -0.5, 0.5]),
        ({"drop_unended": True}, [0.5, 0.0, -0.5, 0.5]),
        ({"drop_forced": True, "drop_unended": True}, [0.0, 0.0, -0.5, 0.5]),
    ],
)
def test_rollouts_that_are_left_out_teach_nothing(objective, expected):
    got = some_trainer(**objective)._advantages(graded(), REWARDS)
    np.testing.assert_allclose(got, expected)


def test_rewards_pay_for_calls_and_for_leaving_the_reference():
    scores = trainer.Scores([], [], [], None, None)
    run = some_trainer(kl=0.5, kl_in="reward")
    of_calls = REWARDS - 0.3 * np.array([1, 3, 2, 3]) / 3
    np.testing.assert_allclose(run._rewards(graded(), scores), of_calls)
    priced = scores._replace(divergence=np.array([0.0, 2.0, -1.0, 0.2], np.float32))
    np.testing.assert_allclose(
        run._rewards(graded(), priced), of_calls - [0.0, 1.0, -0.5, 0.1], atol=1e-6
    )


@pytest.mark.parametrize(
    ("groups", "gradient"), [(("denoiser",), 3), (("adapter",), None), (("threshold",), 0)]
)
def test_the_share_of_the_peak_is_that_of_the_whole_step(groups, gradient):
    """Two chips of 197e12; nine calls of rollouts, and two anchors' gradients of four rows."""
    network = flops.Network(ModelConfig(), LoRAConfig(rank=2), 13)
    devices = np.array([types.SimpleNamespace(device_kind="TPU v5 lite")] * 2)
    run = some_trainer()._replace(
        groups=groups, network=network, mesh=types.SimpleNamespace(devices=devices, size=2)
    )
    likelihood = dataclasses.replace(run.config.likelihood, anchors=2)
    run = run._replace(config=dataclasses.replace(run.config, likelihood=likelihood))
    rollout = graded().rollout._replace(commit_call=TOKENS, sampled=np.ones((4, 3), bool))
    laps = {"rollout": 0.5, "grade": 0.1, "update": 0.4}
    got = run._rates(rollout, run._passes(rollout.nfe), laps)
    call = flops.of_call(network, tokens=19, keys=19, read=3)
    backwards = call.gradient(whole=False) if gradient is None else gradient * call.forward
    assert got["mfu"] == pytest.approx((9 * call.forward + 8 * backwards) / (2 * 197e12))
    assert got["tokens_per_second_per_chip"] == 12 / 2
    assert (got["tokens_per_second"], got["calls_per_second"]) == (12 / 0.5, 9 / 0.5)
