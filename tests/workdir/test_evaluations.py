"""The directory of an evaluation with other settings than its run's."""

import json

import pytest

from diffpo_jax.config import Config, convert
from diffpo_jax.workdir import evaluations, layout


def build(**fields):
    values = convert.as_config_dict(Config())
    values.update_from_flattened_dict({n.replace("__", "."): x for n, x in fields.items()})
    return convert.from_config_dict(values)


def settings(which="both", **fields):
    return evaluations.settings(convert.evaluation_changes(build(), build(**fields)), which)


def test_settings_are_the_fields_that_decide_an_evaluation():
    idle = {"mesh__data": 2, "evaluation__batch": 128, "evaluation__every": 7, "rl__micro_batch": 8}
    assert settings(**idle)["changes"] == {}
    assert settings(evaluation__examples=8, **idle) == {
        "model": "both",
        "changes": {"evaluation.examples": 8},
    }
    # The network is the run's, and the ranking follows from the rule.
    other = settings("base", model__width=32, sampler__rule="confidence", mode="model")
    assert other["changes"] == {"mode": "model", "sampler.rule": "confidence"}


def test_a_name_says_what_differs_and_tells_all_settings_apart():
    few = settings(task__test_file="/data/few rows.csv", evaluation__gammas=(0.1, 1.0))
    name = evaluations.name(few)
    assert name.startswith("gammas-0.1-1.0-test_file-few-rows.csv-")
    assert evaluations.name(json.loads(json.dumps(few))) == name
    elsewhere = settings(task__test_file="/more/few rows.csv", evaluation__gammas=(0.1, 1.0))
    assert evaluations.name(elsewhere)[:-8] == name[:-8]
    assert evaluations.name(elsewhere) != name
    assert evaluations.name(settings("base")).startswith("base-")
    long = settings(task__test_file="x" * 300)
    assert len(evaluations.name(long)) < 64


@pytest.mark.parametrize("which", ["both", "trained"])
def test_an_evaluation_writes_to_its_own_directory_alone(tmp_path, which):
    run = layout.Workdir(tmp_path)
    asked = settings(which, evaluation__examples=8)
    own = evaluations.paths(run, asked)
    assert own.root.parent == tmp_path / "evaluations"
    for path in (own.config, own.inputs, own.run_info, own.report, own.samples):
        assert own.root in path.parents
    assert (own.data, own.metrics) == (run.data, run.metrics)
    assert evaluations.all_settings(run) == []
    evaluations.record(own, asked)
    (found,) = evaluations.all_settings(run)
    assert json.loads(found.read_text()) == asked
