"""The presets of small models, field by field against the task's default."""

import dataclasses
import importlib
import pathlib
import sys

import pytest

from diffpo_jax.config import convert

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

TASKS = ("sudoku", "countdown", "jsonl")


def changed(task: str, preset: str, common: str = "default") -> dict[str, object]:
    """The fields that a preset sets otherwise than another one."""
    module = importlib.import_module(f"configs.{task}")
    one, other = (
        convert.flatten(dataclasses.asdict(convert.from_config_dict(module.get_config(name))))
        for name in (common, preset)
    )
    return {name: other[name] for name in other if one[name] != other[name]}


@pytest.mark.parametrize("task", TASKS)
def test_the_papers_sampler_keeps_all_else_of_the_recipe(task):
    got = changed(task, "prompt")
    assert got.pop("sampler.rule") == "entropy_bounded"
    # What follows from the rule is no setting of its own.
    assert all(name.startswith("sampler.ranking") for name in got), got


@pytest.mark.parametrize("task", TASKS)
def test_a_study_has_the_recipes_base_rates_and_instances(task):
    got = changed(task, "study", common="prompt")
    allowed = {"rl.steps", "rl.prompts", "evaluation.every", "evaluation.factors"}
    allowed |= {"evaluation.base_rules", "checkpoint.every", "logging.samples_every"}
    assert set(got) <= allowed
    assert got["rl.prompts"] == 32
