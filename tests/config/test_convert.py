"""The configuration: overrides, methods, and a one-line message for each mistake."""

import dataclasses
import json
import pathlib
import sys

import ml_collections
import pytest

from diffpo_jax.config import Config, LikelihoodConfig, StudyConfig, check, convert
from diffpo_jax.system.errors import UserError

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from configs import countdown, gsm8k, math500, sudoku

AVERAGED = {"rl.optimizer.kind": "schedule_free_adamw"}


def build(**overrides):
    values = convert.as_config_dict(Config())
    values.update_from_flattened_dict(overrides)
    return convert.from_config_dict(values)


def test_defaults_are_valid_and_survive_json():
    config = build()
    assert convert.from_json(convert.to_json(config)) == config


@pytest.mark.parametrize(
    ("method", "anchors", "weights", "masking"),
    [
        ("d1", 1, "none", 0.15),
        ("d1_is", 1, "token", 0.15),
        ("diffpo_no_is", 2, "none", 0.0),
        ("diffpo", 2, "token", 0.0),
    ],
)
def test_a_method_sets_three_fields_and_no_others(method, anchors, weights, masking):
    config = build(method=method)
    assert config.rl.likelihood.anchors == anchors
    assert config.rl.objective.weights == weights
    assert config.rl.likelihood.prompt_masking == masking
    names = {line.partition(":")[0] for line in convert.differences(build(), config)}
    assert names <= {
        "config.method",
        "config.rl.likelihood.anchors",
        "config.rl.objective.weights",
        "config.rl.likelihood.prompt_masking",
    }


def test_one_field_of_a_method_can_be_overridden():
    config = build(**{"method": "d1", "rl.likelihood.prompt_masking": 0.0})
    assert config.rl.likelihood == LikelihoodConfig(anchors=1, prompt_masking=0.0)
    assert config.rl.objective.weights == "none"


def test_prompt_masking_of_zero_is_not_replaced_by_the_method():
    config = build(**{"rl.likelihood.prompt_masking": 0.0, "method": "d1"})
    assert config.rl.likelihood.prompt_masking == 0.0


@pytest.mark.parametrize("module", [sudoku, countdown])
def test_presets_load_and_unknown_ones_are_named(module):
    for preset in ("default", "smoke"):
        config = convert.from_config_dict(module.get_config(preset))
        assert module.__name__.endswith(config.task.name)
    with pytest.raises(UserError, match="has no preset 'large'; there are: default, smoke"):
        module.get_config("large")


def test_lengths_follow_from_a_generated_task():
    def lengths(module, **fields):
        values = module.get_config(fields.pop("preset", "default"))
        values.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
        config = convert.from_config_dict(values)
        sampler = config.sampler
        sizes = (sampler.prompt_length, sampler.length, sampler.block_length, sampler.steps)
        return *sizes, config.model.positions

    assert lengths(sudoku) == (16, 16, 16, 16, 32)
    assert lengths(sudoku, task__sudoku__size=9) == (81, 81, 81, 81, 162)
    # "20,20,20=50", and "(11+12)*13" with an end of text.
    assert lengths(countdown) == (11, 11, 11, 11, 22)
    # "9,9,9=50", and "(1+2)*3" with an end of text.
    assert lengths(countdown, preset="nine") == (8, 8, 8, 8, 16)
    # "9,9,9,9=50", and "(1+2)*(3+4)" with an end of text.
    assert lengths(countdown, preset="four") == (10, 12, 12, 12, 22)
    # "99,99=100", and "99+99" with an end of text.
    two = {"numbers_min": 2, "numbers_max": 2, "number_max": 99, "target_max": 100}
    two = {f"task__countdown__{name}": value for name, value in two.items()}
    assert lengths(countdown, **two) == (9, 6, 6, 6, 15)
    assert lengths(countdown, preset="nine", task__prompt__prefill="=") == (9, 8, 8, 8, 17)
    # What is set stays, and the rest follows from it.
    assert lengths(sudoku, sampler__length=20) == (16, 20, 20, 20, 36)
    assert lengths(countdown, preset="nine,d1", sampler__length=20) == (8, 20, 20, 10, 28)
    answers = {"pretrain__demonstrations__length": 30}
    assert lengths(countdown, preset="nine", **answers) == (8, 8, 8, 8, 38)


@pytest.mark.parametrize(
    "fields",
    [
        {"task.prompt.template": "Solve {question}."},
        {"task.prompt.answer": "tags"},
        {"task.prompt.chat": True},
        {"tokenizer.name": "some/tokenizer"},
        {"task.name": "gsm8k"},
    ],
)
def test_lengths_that_do_not_follow_from_the_task_must_be_set(fields):
    with pytest.raises(UserError, match=r"prompt_length is not set\. .* Set config") as caught:
        build(**fields)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"config\.sampler\.length is not set"):
        build(**fields, **{"sampler.prompt_length": 8})
    assert build(**fields, **{"sampler.prompt_length": 8, "sampler.length": 8}).sampler.steps == 8


@pytest.mark.parametrize("module", [sudoku, countdown, gsm8k, math500])
@pytest.mark.parametrize(
    "preset",
    ["qwen3_0_6b", "qwen2_5_coder_0_5b", "open_dcoder_0_5b", "qwen3_0_6b_bd", "sdar_1_7b"],
)
def test_presets_of_small_models_are_for_one_device(module, preset):
    config = convert.from_config_dict(module.get_config(preset))
    check.check_training(config)
    assert config.mesh.batch_devices == config.mesh.tensor == 1
    assert config.task.prompt.chat
    for words in ("lora", "d1", "lora,d1"):
        check.check_training(convert.from_config_dict(module.get_config(f"{preset},{words}")))


@pytest.mark.parametrize("module", [sudoku, countdown])
def test_preset_d1_commits_by_the_probability_of_the_drawn_token(module):
    sampler = convert.from_config_dict(module.get_config("d1")).sampler
    assert (sampler.rule, sampler.ranking, sampler.temperature) == ("top_k", "drawn", 0.9)
    assert sampler.steps == sampler.length // 2


@pytest.mark.parametrize(
    ("module", "changes"),
    [(sudoku, {}), (countdown, {}), (gsm8k, {}), (math500, {}), (gsm8k, {"size": "dream_7b"})],
)
def test_preset_dream_decodes_all_positions_on_its_grid_of_times(module, changes):
    preset = ",".join([*changes.values(), "dream"])
    config = convert.from_config_dict(module.get_config(preset))
    sampler = config.decoder
    assert (sampler.rule, sampler.ranking) == ("top_k", "entropy")
    assert (sampler.schedule, sampler.eps) == ("dream", 1e-3)
    assert sampler.block_length == sampler.steps == sampler.length
    assert config.dials == (float(sampler.length),)
    assert (config.evaluation.temperature, sampler.stop_at_end) == (0.0, False)
    check.check_training(config)


def test_configurations_saved_without_the_schedule_and_guidance_load():
    saved = json.loads(convert.to_json(build(**RULE, **{"sampler.rule": "top_k"})))
    for name in ("schedule", "eps", "guidance"):
        del saved["sampler"][name]
    sampler = convert.from_json(json.dumps(saved)).sampler
    assert (sampler.schedule, sampler.eps, sampler.guidance) == ("even", 1e-3, 0.0)


def test_guided_rollouts_are_refused():
    guided = build(**{"sampler.guidance": 0.5})  # for `evaluate` and `generate`
    for run in (
        lambda: check.check_training(guided),
        lambda: convert.study_from_config_dict(convert.as_config_dict(StudyConfig(run=guided))),
    ):
        with pytest.raises(UserError, match=r"sampler\.guidance=0\.5: .* Use 0") as caught:
            run()
        assert "\n" not in str(caught.value)


def test_rollouts_on_the_schedule_dream_take_at_most_a_call_per_token():
    dream = RULE | {"sampler.rule": "top_k", "sampler.schedule": "dream"}
    check.check_training(build(**dream, **{"sampler.steps": 16}))
    longer = build(**dream, **{"sampler.steps": 17})  # `evaluate` may take more
    study = convert.as_config_dict(StudyConfig(run=longer))
    for run in (
        lambda: check.check_training(longer),
        lambda: convert.study_from_config_dict(study),
    ):
        with pytest.raises(UserError, match=r"sampler\.steps=17: .*sampler\.length=16") as caught:
            run()
        assert "\n" not in str(caught.value)


RULE = {"mode": "model"}  # rules without a threshold need this mode


BLOCKS = {"model.attention_block": 4, "sampler.block_length": 4}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sampler.block_length": 5}, "block_length=5 does not divide"),
        ({"sampler.schedule": "dream"}, "rule='entropy_bounded' does not have"),
        (RULE | {"sampler.schedule": "dream", "sampler.rule": "confidence"}, "rule=top_k"),
        ({"sampler.schedule": "dream", "sampler.rule": "state"}, "rule=top_k, or schedule=even"),
        ({"sampler.guidance": 0.5, "sampler.cache": "dual"}, "guidance=0.5 goes neither"),
        ({"sampler.guidance": 0.5, "sampler.rule": "state"}, "guidance=0.5 goes neither"),
        ({"sampler.guidance": -0.5}, "guidance=-0.5 must be at least 0"),
        ({"sampler.cache": "block"}, "attention_block is not set"),
        ({"model.attention_block": 3}, "attention_block"),  # blocks of 16 are written
        (BLOCKS | {"sampler.cache": "dual"}, "cache='dual' gets stale"),
        (BLOCKS | {"sampler.max_calls": 5}, "max_calls=5 commits all"),
        (
            BLOCKS | {"sampler.guidance": 0.5, "sampler.rule": "entropy_sum"},
            "guidance=0.5 does not",
        ),
        (BLOCKS | {"sampler.prompt_length": 18}, "completions begin with a block"),
        (BLOCKS | {"rl.likelihood.anchors": "all", "rl.likelihood.calls": 2}, "calls=2 does not"),
        ({"sampler.eps": 1.0}, r"eps=1.0 must be at least 0 and below 1"),
        ({"rl.group": 1}, "rl.group=1 must be at least 2: a group of one learns nothing"),
        ({"threshold.gamma": -0.1, "mode": "model"}, "config.threshold.gamma=-0.1"),
        ({"threshold.gamma": float("inf")}, "finite"),
        ({"threshold.gamma": 0.0}, "must be above 0"),
        ({"evaluation.gammas": (0.1, -1.0)}, r"evaluation.gammas\[1\]=-1.0"),
        ({"evaluation.gammas": ()}, r"gammas=\(\) must be non-empty"),
        (
            {"model.positions": 40, "pretrain.demonstrations.length": 38},
            r"54 tokens of config\.pretrain\.demonstrations",
        ),
        (
            {
                "pretrain.demonstrations.source": "x.csv",
                "pretrain.demonstrations.difficulty": (1.0, 2.0),
            },
            "source=x.csv replaces them. Leave one out",
        ),
        ({"pretrain.demonstrations.difficulty": (7.0, 4.0)}, "must be two rising"),
        ({"rl.optimizer.decay": "linear", "rl.steps": 3}, "leaves none of the 3 updates"),
        ({"pretrain.decay": "cosine"}, "none, linear"),
        ({"rl.optimizer.kind": "adam"}, "adamw, adafactor, lion, muon, sgd, schedule_free_adamw"),
        (
            {"rl.optimizer.kind": "lion", "rl.optimizer.momentum": 0.5},
            r"momentum=0\.5 is not for config\.rl\.optimizer\.kind='lion': it reads beta1, beta2, "
            r"mu_dtype\. Leave it out",
        ),
        (
            {"pretrain.kind": "adafactor", "pretrain.beta2": 0.9},
            r"config\.pretrain\.beta2=0\.9 .* it reads no such field",
        ),
        (
            {"mode": "model", "rl.optimizer.kind": "sgd", "rl.optimizer.beta1": 0.5},
            "beta1=0.5 is not for",
        ),
        ({"pretrain.kind": "muon", "pretrain.momentum": 1.0}, "at least 0 and below 1"),
        (AVERAGED | {"rl.optimizer.decay": "linear"}, "--config.rl.optimizer.decay=none with it"),
        (AVERAGED | {"rl.optimizer.beta1": 0.0}, "needs a beta1 above 0"),
        (AVERAGED | {"rl.guard.action": "lower"}, "Use warn or stop"),
        ({"evaluation.samples": 4}, "evaluation.temperature=0"),
        ({"sampler.rule": "magic"}, "config.sampler.rule='magic' is unknown; use one of: entropy"),
        (
            {"sampler.ranking": "drawn"},
            "config.sampler.ranking='drawn' is not a ranking for .*; use one of: ent",
        ),
        (RULE | {"sampler.rule": "top_k", "sampler.steps": 0}, "sampler.steps=0 must be"),
        (
            RULE | {"sampler.rule": "random", "sampler.block_length": 4, "sampler.steps": 6},
            "block_length=4 does not divide config.sampler.steps=6",
        ),
        (
            RULE | {"sampler.rule": "top_k", "evaluation.steps": (4, -1)},
            r"evaluation.steps\[1\]=-1",
        ),
        (RULE | {"sampler.rule": "confidence", "sampler.confidence": 1.5}, "a probability"),
        (RULE | {"sampler.rule": "confidence", "evaluation.confidences": ()}, "must be non-empty"),
        (RULE | {"sampler.rule": "confidence", "sampler.fallback": "best"}, "most_confident, left"),
        ({"sampler.suppress_end": "always"}, "none, never, while_open, last"),
        ({"sampler.cache": "all"}, "none, prompt, dual"),
        (
            {"sampler.vocabulary_chunk": -1},
            r"vocabulary_chunk=-1 must be int \(above 0\), auto or None",
        ),
        ({"rl.objective.weights": "pairs"}, "none, token, sequence, normalised"),
        ({"rl.objective.ratio": "word"}, "token, sequence"),
        ({"rl.objective.kl_estimator": "k4"}, "k1, k2, k3"),
        ({"rl.likelihood.schedule": "weekly"}, "uniform, stratified, even, batch, calls"),
        ({"rl.likelihood.calls": 2}, "needs config.rl.likelihood.anchors=all, not 2"),
        ({"rl.likelihood.shrink": 2}, "shrink=2 .*anchors=2 and calls=None"),
        (
            {"rl.likelihood.shrink": 2, "rl.likelihood.anchors": "all", "rl.likelihood.calls": 3},
            "anchors=all and calls=3",
        ),
        ({"rl.objective.right_likelihood": 0.1, "mode": "sampler"}, "does not train. Use 0"),
        ({"rl.objective.right_likelihood": -0.1}, "right_likelihood=-0.1 must be at least 0"),
        ({"rl.objective.selection": "exact", "mode": "model"}, "needs a threshold that is drawn"),
        ({"rl.objective.selection": "exact", "sampler.ranking": "margin"}, "and 'margin'"),
        ({"rl.objective.selection": "exact", "sampler.rule": "entropy_sum"}, "not 'entropy_sum'"),
        ({"threshold.scope": "call"}, "only config.rl.objective.selection='exact'"),
        ({"rl.speed.weight": -0.5}, "config.rl.speed.weight=-0.5 must be at least 0"),
        ({"rl.speed.weight": 1.5}, r"weight in \[0, 1\]"),
        ({"task.protocol": "d2"}, "config.task.protocol='d2' is unknown; use one of: default, d1"),
        ({"task.prompt.answer": "xml"}, "text, tags, boxed"),
        ({"task.grader_seconds": 0.0}, "grader_seconds=0.0 must be above 0"),
        ({"task.validation_examples": -1}, "must be at least 0"),
        ({"mode": "both"}, "config.mode='both' is unknown; use one of: model, sampler, joint"),
        ({"method": "grpo"}, "config.method='grpo' is unknown"),
        ({"model.heads": 5}, "even multiple"),
        ({"model.positions": 31}, "positions=31 is less than the 32 tokens"),
        ({"model.kv_heads": 3}, "kv_heads=3 does not divide"),
        ({"sampler.temperature": -0.5}, "sampler.temperature=-0.5 must be at least 0"),
        ({"rl.micro_batch": 100}, r"micro_batch=100 does not divide .*=512\."),
        ({"mesh.data": 3}, "fsdp=3 does not divide config.evaluation.batch=512: the devices"),
        ({"pretrain.micro_batch": 48}, "pretrain.micro_batch=48 does not divide"),
        ({"threshold.sigma": 9.0}, "outside"),
        ({"rl.likelihood.prompt_masking": 1.0}, "below 1"),
        ({"rl.objective.truncation": float("nan")}, "NaN"),
        (
            {"sampler.rule": "state", "mode": "sampler", "rl.objective.advantage": "decoupled"},
            "a price of its own",
        ),
        (
            {"rl.objective.kl_in": "reward", "rl.objective.advantage": "decoupled_group"},
            "'decoupled_group' splits",
        ),
        ({"sampler.rule": "state", "rl.head.minibatch": 9, "mesh.data": 2}, "minibatch=9"),
        ({"rl.speed.prices": (2.0, 1.0)}, "must be two rising"),
    ],
)
def test_wrong_and_contradicting_values_are_named(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        build(**overrides)
    assert "\n" not in str(caught.value)


def test_the_threshold_heads_adam_reads_its_decays_beside_any_optimiser():
    fields = {"rl.optimizer.kind": "sgd", "rl.optimizer.beta1": 0.5, "rl.optimizer.beta2": 0.7}
    config = build(**fields)
    assert (config.rl.optimizer.beta1, config.rl.optimizer.beta2) == (0.5, 0.7)
    with pytest.raises(UserError, match=r"beta1=0\.5 is not for"):
        build(**fields, **{"sampler.rule": "state"})  # whose head has an update of its own


@pytest.mark.parametrize(("mode", "beta1"), [("joint", 0.5), ("model", 0.9)])
def test_a_saved_configuration_loses_what_adafactor_never_read(mode, beta1):
    saved = json.loads(convert.to_json(build(mode=mode)))
    saved["rl"]["optimizer"] |= {"kind": "adafactor", "mu_dtype": "bfloat16", "beta1": 0.5}
    optimizer = convert.from_json(json.dumps(saved)).rl.optimizer
    assert (optimizer.kind, optimizer.mu_dtype, optimizer.beta1) == ("adafactor", "float32", beta1)


def test_batches_of_a_stage_without_steps_need_not_divide():
    assert build(**{"pretrain.micro_batch": 48, "pretrain.steps": 0}).pretrain.micro_batch == 48


def test_the_message_of_an_unknown_field_names_the_nearest():
    values = convert.as_config_dict(Config())
    with values.unlocked():
        values.rl.inner_update = 2
    with pytest.raises(UserError, match=r"nearest is config\.rl\.inner_updates"):
        convert.from_config_dict(values)


def test_unknown_fields_and_sections_are_explained():
    assert convert.unknown_field("config.rl.steps") is None
    assert "config.task.sudoku.size" in convert.unknown_field("config.task.sudoku.sizes")
    assert "not a section" in convert.unknown_field("config.seed.x")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": "one"}, r"config.seed='one' must be int \(at least 0\)"),
        ({"seed": True}, "config.seed=True must be int"),
        ({"rl": 3}, "config.rl is a section"),
        ({"evaluation": {"gammas": 0.1}}, "must be list of float"),
        ({"evaluation": {"gammas": ["a"]}}, r"gammas\[0\]='a' must be float"),
    ],
)
def test_wrong_types_are_named(given, message):
    with pytest.raises(UserError, match=message):
        convert.from_config_dict(ml_collections.ConfigDict(given))


def test_an_integer_becomes_a_float_in_a_float_field():
    values = ml_collections.ConfigDict({"rl": {"speed": {"weight": 1}}})
    weight = convert.from_config_dict(values).rl.speed.weight
    assert weight == 1.0
    assert isinstance(weight, float)


def test_only_fields_that_change_results_are_differences():
    old = build()
    free = build(
        **{"mesh.data": 8, "logging.every": 5, "checkpoint.every": 7, "task.data_dir": "elsewhere"},
        **{"evaluation.gammas": (0.0,), "task.test_file": "puzzles.csv"},
    )
    assert convert.differences(old, free) == []
    longer = build(**{"rl.steps": old.rl.steps + 1})
    assert convert.differences(old, longer) == []
    assert convert.differences(longer, old) == [
        f"config.rl.steps: {old.rl.steps + 1} -> {old.rl.steps}"
    ]
    other = build(**{"rl.speed.weight": 0.1, "evaluation.temperature": 1.0})
    assert [line.split(":")[0] for line in convert.differences(old, other)] == [
        "config.evaluation.temperature",
        "config.rl.speed.weight",
    ]


def test_every_section_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 3


def test_a_rule_sets_the_ranking_and_the_dial():
    assert build().sampler.ranking == "entropy"
    assert build(**{"sampler.ranking": "margin"}).sampler.ranking == "margin"
    assert (build().dial, build().dials[:2]) == (0.1, (0.0, 0.05))
    top_k = build(**RULE | {"sampler.rule": "top_k", "sampler.steps": 8, "sampler.block_length": 8})
    assert top_k.sampler.ranking == "confidence"
    assert (top_k.dial, top_k.dials) == (8.0, (2.0, 4.0, 8.0, 16.0))
    given = build(**RULE | {"sampler.rule": "random", "evaluation.steps": (3, 16)})
    assert given.sampler.ranking == "random"
    assert given.dials == (3.0, 16.0)
    confident = build(**RULE | {"sampler.rule": "confidence"})
    assert (confident.dial, confident.dials[-1]) == (0.9, 0.99)


def test_more_steps_change_a_run_whose_learning_rates_fall():
    fewer, more = (build(**{"rl.steps": n, "rl.optimizer.decay": "linear"}) for n in (60, 90))
    (line,) = convert.differences(fewer, more)
    assert line.startswith(
        "config.rl.steps: 60 -> 90, which continues only runs with config.rl.opti"
    )


def test_the_text_of_a_template_file_is_kept_with_the_run(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("Grüße: {question}\n", encoding="utf-8")
    values = convert.as_config_dict(Config())
    values.task.prompt.template = f"@{path}"
    values.sampler.prompt_length = values.sampler.length = 16
    config = convert.from_config_dict(values)
    assert config.task.prompt.template == "Grüße: {question}\n"
    path.unlink()
    assert convert.from_json(convert.to_json(config)) == config


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"@again"])
def test_an_unusable_template_file_is_named(tmp_path, content):
    path = tmp_path / "prompt.txt"
    if content is not None:
        path.write_bytes(content)
    values = convert.as_config_dict(Config())
    values.task.prompt.template = f"@{path}"
    with pytest.raises(UserError, match=r"config\.task\.prompt\.template=@.*prompt\.txt"):
        convert.from_config_dict(values)


def test_a_study_and_a_single_experiment_are_told_apart():
    with pytest.raises(
        UserError, match=r"names a study; run it with `python -m diffpo_jax\.study`"
    ):
        convert.from_config_dict(convert.as_config_dict(StudyConfig()))
    with pytest.raises(
        UserError, match=r"single experiment; run it with `python -m diffpo_jax\.main"
    ):
        convert.study_from_config_dict(convert.as_config_dict(Config()))
