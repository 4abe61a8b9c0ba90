"""What a stage says about a step that must not be kept."""

import types

import pytest

from diffpo_jax.run import stage
from diffpo_jax.system.errors import UserError

NAN = float("nan")


def loop(latest):
    saved = types.SimpleNamespace(latest=lambda: latest, directory="runs/a/checkpoints/rl")
    return stage.Loop(None, "rl", 9, None, saved, None, None, 0, None, {})


def test_numbers_that_are_finite_pass():
    loop(None).check_finite(3, {"loss": 1.0, "reward": -2.0})


@pytest.mark.parametrize(
    ("latest", "words"),
    [
        (None, "There is no checkpoint yet in runs/a/checkpoints/rl."),
        (0, "Last good checkpoint: step 0 of runs/a/checkpoints/rl."),
        (5, "Last good checkpoint: step 5 of runs/a/checkpoints/rl."),
    ],
)
def test_the_last_good_checkpoint_is_named_if_there_is_one(latest, words):
    with pytest.raises(UserError) as error:
        loop(latest).check_finite(7, {"reward": NAN, "nfe": 2.0}, "Lower it.")
    assert str(error.value) == (
        f"rl step 7: reward=nan. Stopped, and nothing of this step was saved. {words} Lower it."
    )


def test_the_cause_comes_first_and_not_every_metric_is_named():
    values = dict.fromkeys(("a", "b", "c", "grad_norm/denoiser"), NAN) | {"d": float("inf")}
    with pytest.raises(UserError, match="grad_norm/denoiser=nan, a=nan, b=nan and 2 more"):
        loop(2).check_finite(3, values)


def test_a_mistake_in_a_step_is_named_with_the_step():
    words = r"rl step 4: your reward is NaN\. Stopped.*no checkpoint"
    with pytest.raises(UserError, match=words), loop(None).explained(4):
        raise UserError("your reward is NaN.")
    with pytest.raises(ValueError, match="a bug"), loop(None).explained(4):
        raise ValueError("a bug")
