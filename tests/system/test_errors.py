"""What was being done when a mistake came to light."""

import pytest

from diffpo_jax.system import errors


def test_a_mistake_says_during_what_it_was_found():
    with pytest.raises(errors.UserError) as found, errors.during("evaluation, point 0.1"):
        raise errors.UserError("the reward is NaN.")
    assert str(found.value) == "evaluation, point 0.1: the reward is NaN."
    assert str(found.value.__cause__) == "the reward is NaN."


def test_other_errors_stay_as_they_are():
    with pytest.raises(ValueError, match=r"^a bug$"), errors.during("evaluation"):
        raise ValueError("a bug")
