"""Values of fields: choices, bounds, None, and the values that older versions wrote."""

import dataclasses
import json
import pathlib
import sys
from typing import Annotated, Literal

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from diffpo_jax.config import Config, StudyConfig, check, convert, values
from diffpo_jax.config.values import Bound, Was
from diffpo_jax.system.errors import UserError

# Every field whose None, or word, older versions wrote as 0, "" or ().
OLD_VALUES = {
    "init_from": "",
    "task.reward": "",
    "task.data_dir": "",
    "task.train_file": "",
    "task.test_file": "",
    "task.grader_processes": 0,
    "tokenizer.kind": "",
    "tokenizer.mask": "",
    "tokenizer.pad": "",
    "tokenizer.closing": "",
    "model.weights": "",
    "model.vocab": 0,
    "model.positions": 0,
    "model.quantized": "",
    "lora.rank": 0,
    "sampler.max_calls": 0,
    "sampler.slots": 0,
    "sampler.cache_refresh": 0,
    "sampler.cache_rows": 0,
    "sampler.vocabulary_chunk": 0,
    "pretrain.micro_batch": 0,
    "pretrain.demonstrations.source": "",
    "pretrain.demonstrations.prompt_length": 0,
    "pretrain.demonstrations.length": 0,
    "rl.micro_batch": 0,
    "rl.likelihood.anchors": 0,
    "rl.likelihood.calls": 0,
    "evaluation.block_length": 0,
    "evaluation.steps": (),
    "evaluation.examples": 0,
    "evaluation.every": 0,
    "evaluation.validation_examples": 0,
    "checkpoint.keep_every": 0,
    "logging.samples_every": 0,
    "logging.wandb": "",
    "logging.trackio": "",
}
NEW_VALUES = dict.fromkeys(OLD_VALUES) | {"rl.likelihood.anchors": "all"}

Small = Annotated[int, Bound("below 9", lambda x: x < 9)]


@dataclasses.dataclass(frozen=True)
class Inner:
    word: Literal["a", "b"] = "a"
    words: tuple[Literal["a", "b"], ...] = ()
    small: Small = 1
    smalls: tuple[Small, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    both: Annotated[Small | Literal["all"] | None, Was(0, "all")] = None
    number: float = 0.5


def flat(config):
    return convert.flatten(dataclasses.asdict(config))


def with_value(section, name, value):
    first, _, rest = name.partition(".")
    value = with_value(getattr(section, first), rest, value) if rest else value
    return dataclasses.replace(section, **{first: value})


def test_the_list_of_old_values_is_complete():
    marked = {
        name
        for name, hint in values.all_annotations(Config).items()
        if any(isinstance(mark, Was) for mark in getattr(hint, "__metadata__", ()))
    }
    assert marked == OLD_VALUES.keys()


@pytest.mark.parametrize("name", OLD_VALUES)
def test_an_old_value_reads_as_its_replacement(name):
    old, new = OLD_VALUES[name], NEW_VALUES[name]
    given = convert.as_config_dict(Config())
    given.update_from_flattened_dict({name: old})
    config = convert.from_config_dict(given)
    assert flat(config)[name] == new
    # An override, and a config.json of an older version.
    given = convert.as_config_dict(Config())
    convert.set_field(given, f"{name}={old}")
    assert convert.from_config_dict(given) == config
    saved = json.loads(convert.to_json(config))
    *sections, last = name.split(".")
    section = saved
    for part in sections:
        section = section[part]
    section[last] = old
    assert convert.differences(convert.from_json(json.dumps(saved)), config) == []
    assert convert.from_json(json.dumps(saved)) == config


@pytest.mark.parametrize("name", OLD_VALUES)
def test_the_check_of_a_finished_configuration_refuses_old_values(name):
    config = convert.from_config_dict(convert.as_config_dict(Config()))
    with pytest.raises(UserError, match=rf"config\.{name}=.* must be {NEW_VALUES[name]!r}\."):
        check.check(with_value(config, name, OLD_VALUES[name]))


def test_former_values_are_those_of_older_versions():
    config = Config()
    for name, new in NEW_VALUES.items():
        config = with_value(config, name, new)
    former = convert.flatten(values.former_values(config))
    expected = {name: list(x) if x == () else x for name, x in OLD_VALUES.items()}
    assert {name: former[name] for name in OLD_VALUES} == expected
    unchanged = former.keys() - OLD_VALUES.keys()
    assert {name: former[name] for name in unchanged} == {n: flat(config)[n] for n in unchanged}


def test_real_counts_may_be_zero():
    given = convert.as_config_dict(Config())
    counts = ("pretrain.steps", "rl.steps", "pretrain.warmup", "task.validation_examples")
    given.update_from_flattened_dict(dict.fromkeys(counts, 0))
    config = flat(convert.from_config_dict(given))
    assert [config[name] for name in counts] == [0] * 4


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("inner.word", "c", "x.inner.word='c' is unknown; use one of: a, b."),
        ("inner.words", ("a", "c"), "x.inner.words[1]='c' is unknown; use one of: a, b."),
        ("inner.words", "a", "x.inner.words='a' must be list of a or b."),
        ("inner.small", 9, "x.inner.small=9 must be below 9."),
        ("inner.small", None, "x.inner.small=None must be int (below 9)."),
        ("inner.small", True, "x.inner.small=True must be int (below 9)."),
        ("inner.smalls", (1, 9), "x.inner.smalls[1]=9 must be below 9."),
        ("both", 9, "x.both=9 must be int (below 9), all or None."),
        ("both", "some", "x.both='some' must be int (below 9), all or None."),
        ("number", "1", "x.number='1' must be float."),
        ("number", float("nan"), "x.number is NaN."),
    ],
)
def test_faults_are_found_at_every_depth(name, value, message):
    with pytest.raises(UserError) as caught:
        values.check_fields(with_value(Outer(), name, value), "x")
    assert str(caught.value) == message
    with pytest.raises(UserError) as caught:
        values.coerce(values.all_annotations(Outer)[name], value, f"x.{name}")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mode", "both", "config.mode='both' is unknown"),
        ("rl.objective.clip", "x", "config.rl.objective.clip='x' is unknown"),
        ("lora.targets", ("q", "z"), r"config.lora.targets\[1\]='z' is unknown"),
        ("lora.targets", ("q", "q"), "must be without repeats"),
        ("lora.targets", (), "must be non-empty"),
        (
            "evaluation.gammas",
            (0.1, -1.0),
            r"config.evaluation.gammas\[1\]=-1.0 must be at least 0",
        ),
        ("sampler.length", 0, "config.sampler.length=0 must be above 0"),
        ("rl.likelihood.temperature", 0.0, "temperature=0.0 must be above 0"),
        ("model.quantized", "fp4", "config.model.quantized='fp4' is unknown; use one of: int8"),
        ("rl.likelihood.anchors", -1, r"anchors=-1 must be int \(above 0\), all or None"),
    ],
)
def test_replaced_fields_are_checked_too(name, value, message):
    config = convert.from_config_dict(convert.as_config_dict(Config()))
    check.check(config)
    with pytest.raises(UserError, match=message):
        check.check(with_value(config, name, value))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("figure2.model", "old", "config.figure2.model='old' is unknown"),
        ("figure2.anchors", (1, 0), r"config.figure2.anchors\[1\]=0 must be above 0"),
        ("grid.calls", (0.5,), r"config.grid.calls\[0\]=0.5 must be at least 1"),
        ("run.sampler.length", 0, "config.run.sampler.length=0 must be above 0"),
    ],
)
def test_fields_of_a_study_are_checked(name, value, message):
    given = convert.as_config_dict(StudyConfig())
    given.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=message):
        convert.study_from_config_dict(given)


def test_text_is_parsed_by_the_field_it_is_for():
    hints = values.all_annotations(Config)

    def parse(name, text):
        return values.coerce(hints[name], values.parse(hints[name], text), name)

    assert parse("rl.micro_batch", "64") == 64
    assert parse("rl.micro_batch", "None") is None
    assert parse("rl.likelihood.anchors", "4") == 4
    assert parse("rl.likelihood.anchors", "all") == "all"
    assert parse("task.data_dir", "12") == "12"
    assert parse("task.data_dir", "None") is None
    assert parse("rl.objective.weights", "none") == "none"
    assert parse("evaluation.steps", "(4, 8)") == (4, 8)
    assert parse("evaluation.gammas", "0.5") == (0.5,)
    assert parse("evaluation.metrics", "a:f") == ("a:f",)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--config.rl.micro_batch=32"], "rl.micro_batch", 32),
        (["--config.rl.micro_batch", "32"], "rl.micro_batch", 32),
        (["--config.rl.micro_batch=None"], "rl.micro_batch", None),
        (["--config.rl.micro_batch=0"], "rl.micro_batch", None),
        ([], "rl.micro_batch", "auto"),
        (["--config.rl.micro_batch=auto"], "rl.micro_batch", "auto"),
        (["--config.sampler.slots=None"], "sampler.slots", None),
        (["--config.rl.likelihood.anchors=4"], "rl.likelihood.anchors", 4),
        (["--config.rl.likelihood.anchors=all"], "rl.likelihood.anchors", "all"),
        (["--config.rl.likelihood.anchors=0"], "rl.likelihood.anchors", "all"),
        (["--config.rl.likelihood.temperature=1"], "rl.likelihood.temperature", 1.0),
        (["--config.model.quantized=nf4"], "model.quantized", "nf4"),
        (["--config.model.quantized="], "model.quantized", None),
        (["--config.task.data_dir=12"], "task.data_dir", "12"),
        (["--config.task.data_dir=None"], "task.data_dir", None),
        (["--config.evaluation.steps=(4, 8)"], "evaluation.steps", [4, 8]),
        (["--config.evaluation.steps=None"], "evaluation.steps", None),
        (["--config.evaluation.steps=()"], "evaluation.steps", None),
    ],
)
def test_the_command_line_sets_values_and_none(monkeypatch, words, name, value):
    path = pathlib.Path(__file__).parents[2] / "configs/sudoku.py"
    monkeypatch.setattr(sys, "argv", ["main", f"--config={path}", *words])
    given = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=given)
    given(sys.argv)
    assert flat(convert.from_config_dict(given["config"].value))[name] == value


def test_optional_fields_of_a_config_dict_take_values_and_none_in_turn():
    given = convert.as_config_dict(Config())
    for value in (None, 32, 0, 16):
        given.sampler.slots = value
        assert convert.from_config_dict(given).sampler.slots == (value or None)
    given.rl.likelihood.anchors, given.rl.likelihood.calls = "all", 4
    assert convert.from_config_dict(given).rl.likelihood.anchors == "all"
    given.init_from = "runs/a"
    assert convert.from_config_dict(given).init_from == "runs/a"


def test_a_type_in_words():
    words = {name: values.describe(h) for name, h in values.all_annotations(Outer).items()}
    assert words == {
        "inner.word": "a or b",
        "inner.words": "list of a or b",
        "inner.small": "int (below 9)",
        "inner.smalls": "list of int (below 9)",
        "both": "int (below 9), all or None",
        "number": "float",
    }


def test_a_wrong_section_is_named():
    with pytest.raises(UserError, match=r"config\.rl is a section, not a value"):
        convert.from_config_dict(ml_collections.ConfigDict({"rl": 3}))
    with pytest.raises(UserError, match=r"config\.seed is a value, not a section"):
        convert.from_config_dict(ml_collections.ConfigDict({"seed": {"x": 3}}))


# Numbers for which infinity means "no limit", and sizes that the task itself checks.
UNLIMITED = {
    "pretrain.max_grad_norm",
    "pretrain.demonstrations.difficulty",
    *(f"rl.objective.{name}" for name in ("truncation", "clip_low", "clip_high")),
    "rl.optimizer.max_grad_norm",
    *("rl.head.max_grad_norm", "rl.head.clip"),
    *(f"rl.guard.{name}" for name in ("reward", "tokens_per_call", "accuracy", "evaluation")),
}
OF_TASKS = ("task.sudoku.", "task.countdown.")


def accepts(name, value):
    hint = values.all_annotations(Config)[name]
    value = (value, value) if tuple in values.kinds(hint) else value
    try:
        values.coerce(hint, value, name)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
        return False
    return True


NUMBERS = [
    name for name, h in values.all_annotations(Config).items() if values.kinds(h) & {int, float}
]
LISTS = ["evaluation.gammas", "evaluation.prices", "rl.speed.prices", "logging.profile"]


@pytest.mark.parametrize("name", [*NUMBERS, *LISTS, "pretrain.demonstrations.difficulty"])
def test_no_number_may_be_nan_endless_or_negative_where_that_means_nothing(name):
    assert not accepts(name, float("nan"))
    assert not accepts(name, 10**400)
    assert not accepts(name, 1e39)  # infinite in float32
    assert accepts(name, float("inf")) == (name in UNLIMITED)
    may_be_negative = name.startswith(OF_TASKS) or name == "pretrain.demonstrations.difficulty"
    assert not (accepts(name, -1) or accepts(name, -1.0)) or may_be_negative
