"""Checkpoints of tiny networks: checked before RL, and converted if they write left to right."""

import json
import pathlib
import sys

import commands
import jax
import numpy as np
import pytest
import transformers
from made_weights import ROWS, SENTENCES, TOKENIZER, save, trained

from diffpo_jax.config import convert
from diffpo_jax.data import tokenizers
from diffpo_jax.distributed import join_flags
from diffpo_jax.run import base_model, experiment, export, score, setup, weights
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import layout

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from configs import jsonl

NEW = "<|new mask|>"  # a token that the tokenizer lacks


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints by kind, and rows that continue the sentences."""
    root = tmp_path_factory.mktemp("checkpoints")
    for kind in ("own", "nothing", "left to right"):
        save(root / kind, kind)
    words = [text.split() for text in SENTENCES]
    rows = [{"question": " ".join(w[:6]), "answer": " ".join(w[6:])} for w in words]
    lines = "".join(json.dumps(row | {"n": i}) + "\n" for i, row in enumerate(4 * rows))
    (root / "rows.jsonl").write_text(lines)
    return root


def make_config(saved, kind, **fields):
    given = jsonl.get_config("smoke")
    where = str(saved / kind)
    base = {
        "task.train_file": str(saved / "rows.jsonl"),
        "task.test_file": str(saved / "rows.jsonl"),
        "tokenizer.name": where,
        "tokenizer.kind": "PreTrainedTokenizerFast",
        "model.family": "a2d_qwen3",
        "model.weights": where,
        "model.positions": None,
        "pretrain.steps": 0,
        "rl.steps": 1,
        "sampler.prompt_length": 8,
        "sampler.length": 14,
        "sampler.rule": "entropy_bounded",
        "sampler.temperature": 0.5,
        "evaluation.gammas": (1.0,),
        "evaluation.base_rules": (),
        "evaluation.batch": 8,
    }
    if kind == "left to right":
        base |= {"model.autoregressive": True, "pretrain.steps": 2, "pretrain.batch": 8}
        base |= {"pretrain.micro_batch": 8, "tokenizer.mask": NEW}
        base |= {"tokenizer.mask_id": len(TOKENIZER)}
    given.update_from_flattened_dict(base | fields)
    return convert.from_config_dict(given)


def prepare(tmp_path, config):
    return setup.prepare(setup.with_weights(config), layout.Workdir(tmp_path))


def test_rl_stops_before_its_first_step_on_weights_that_know_nothing(saved, tmp_path):
    with pytest.raises(UserError, match="no more than a guess") as caught:
        experiment.run(make_config(saved, "nothing"), str(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(saved / "nothing"))
    assert "--config.model.check_weights=warn" in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints" / "rl").exists()


def test_a_warning_or_nothing_takes_the_place_of_the_stop(saved, tmp_path, capsys):
    own = prepare(tmp_path, make_config(saved, "nothing", **{"model.check_weights": "warn"}))
    params = base_model.make(own)
    assert weights.check(own, params).ok is False
    assert f"warning: {saved / 'nothing'}: The weights know no more" in capsys.readouterr().err
    off = convert.from_json(convert.to_json(own.config).replace('"warn"', '"off"', 1))
    assert off.model.check_weights == "off"
    assert weights.check(own._replace(config=off), params) is None


def test_a_change_of_the_check_goes_on_with_a_run(saved):
    a, b = (make_config(saved, "own", **{"model.check_weights": x}) for x in ("stop", "warn"))
    assert not convert.differences(a, b)


def test_an_evaluation_keeps_the_verdict(saved, tmp_path):
    found = score.score(make_config(saved, "own"), str(tmp_path))["weights"]
    assert found["ok"] is True and found["losses"]["shift 0"] < 1
    with pytest.raises(UserError, match="no more than a guess"):
        score.score(make_config(saved, "nothing"), str(tmp_path / "other"))


def test_the_doctor_looks_at_weights(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(join_flags, "join", lambda: None)
    (tmp_path / "tiny.py").write_text(
        f"""
import sys
sys.path.insert(0, {str(pathlib.Path(jsonl.__file__).parents[1])!r})
from configs import jsonl
def get_config(preset="default"):
    config = jsonl.get_config("smoke")
    config.tokenizer.name = {str(saved / "own")!r}
    config.tokenizer.kind = "PreTrainedTokenizerFast"
    config.model.positions, config.model.weights = None, config.tokenizer.name
    return config
"""
    )
    assert commands.run("doctor", "--config=tiny.py") == 0
    assert "ok  weights      Hidden words of ordinary" in capsys.readouterr().out
    assert commands.run("doctor", "--config=tiny.py", f"--model={saved / 'nothing'}") == 1
    out = capsys.readouterr().out
    assert "BAD  weights      The weights know no more" in out and "not ready: weights." in out
    assert commands.run("doctor", "--config=tiny.py", f"--model={saved / 'left to right'}") == 1
    assert "set config.model.autoregressive=True" in capsys.readouterr().out
    assert commands.run("doctor", f"--model={saved / 'own'}") == 2
    assert "--config is missing" in capsys.readouterr().err


@pytest.fixture(scope="module")
def converted(saved, tmp_path_factory):
    """The workdir of a conversion in 60 steps."""
    workdir = tmp_path_factory.mktemp("converted") / "run"
    fields = {"pretrain.steps": 60, "pretrain.decay": "none", "checkpoint.every": 60}
    config = make_config(saved, "left to right", **fields)
    experiment.run(config, str(workdir), base_only=True)  # which ends with the check
    return workdir


def test_sft_makes_a_diffusion_model_of_a_network_that_writes_from_left_to_right(
    saved, converted, tmp_path
):
    own = prepare(tmp_path, make_config(saved, "left to right"))
    before = base_model.untrained(own.config, own.policy, own.mesh)
    with pytest.raises(UserError, match="write from left to right and were never made"):
        weights.check(own, before)
    after = base_model.read(converted, own.policy, own.mesh)
    found = weights.check(own, after)
    assert found.ok and found.losses["demonstrations"] < 0.5 * found.losses["guess"]


def test_the_mask_token_begins_as_the_mean_of_the_tokens_before_it(saved, tmp_path):
    own = prepare(tmp_path, make_config(saved, "left to right", **{"model.logit_shift": 1}))
    new = len(TOKENIZER)
    assert (own.policy.mask_id, own.policy.vocab) == (new, ROWS)
    assert own.policy.logit_shift == 1
    embed = base_model.untrained(own.config, own.policy, own.mesh)["denoiser"]["embed"]
    before = np.asarray(trained("left to right")["denoiser"]["embed"])
    np.testing.assert_allclose(embed[new], before[:new].mean(axis=0), atol=1e-6)
    others = np.arange(ROWS) != new
    np.testing.assert_array_equal(embed[others], before[others])


def test_an_export_of_a_conversion_is_a_checkpoint_of_the_family(saved, converted, tmp_path):
    out = tmp_path / "out"
    export.export(str(converted), str(out), model="base")
    values = json.loads((out / "config.json").read_text())
    assert values["model_type"] == "a2d-qwen3"
    assert values["architectures"] == ["A2DQwen3LMHeadModel"]
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(out)
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == (NEW, len(TOKENIZER))
    assert tokenizer.eos_token == TOKENIZER.eos_token
    config = setup.with_weights(
        make_config(saved, "own", **{"model.weights": str(out), "tokenizer.name": str(out)})
    )
    assert config.model.family == "a2d_qwen3" and not config.model.autoregressive
    assert tokenizers.special_ids(tokenizers.make_tokenizer(config.tokenizer)).mask == len(
        TOKENIZER
    )
    own = prepare(tmp_path, config)
    again = base_model.untrained(own.config, own.policy, own.mesh)["denoiser"]
    first = base_model.read(converted, own.policy, own.mesh)["denoiser"]
    jax.tree.map(np.testing.assert_array_equal, again, first)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("left to right", {"pretrain.steps": 0}, "only SFT makes a diffusion model of them"),
        ("left to right", {"model.weights": None}, "named in config.model.weights"),
        ("left to right", {"lora.rank": 2}, "leaves the mask token's embedding as it is"),
        ("left to right", {"model.autoregressive": False}, "write from left to right. SFT makes"),
        ("own", {"model.autoregressive": True, "pretrain.steps": 2}, "leave config.model.autoreg"),
    ],
)
def test_a_conversion_that_makes_no_sense_is_refused(saved, kind, fields, message):
    with pytest.raises(UserError, match=message) as caught:
        setup.with_weights(make_config(saved, kind, **fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer.mask": None, "tokenizer.mask_id": None}, None),
        ({"tokenizer.mask_id": 3}, "config.tokenizer.mask_id=3, but the mask token"),
    ],
)
def test_a_mask_token_needs_a_name_and_its_id(saved, fields, message, tmp_path):
    config = make_config(saved, "left to right", **fields)
    if message is None:  # the tokenizer's own
        assert tokenizers.special_ids(tokenizers.make_tokenizer(config.tokenizer)).mask == 1
        return
    with pytest.raises(UserError, match=message):
        tokenizers.make_tokenizer(config.tokenizer)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("use_sliding_window", True, "use_sliding_window=true changes the network"),
        ("rope_scaling", {"type": "yarn", "factor": 4.0}, "rope_scaling=.*not supported"),
        ("tie_word_embeddings", False, "lm_head.weight is missing"),
        ("vocab_size", 60, r"gives model.embed_tokens.weight the shape \(60, "),
    ],
)
def test_a_checkpoint_that_cannot_be_converted_is_refused(saved, tmp_path, key, value, message):
    other = tmp_path / "left to right"
    save(other, "left to right")
    values = json.loads((other / "config.json").read_text()) | {key: value}
    (other / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        base_model.make(
            prepare(
                tmp_path / "run",
                make_config(
                    tmp_path,
                    "left to right",
                    **{
                        "task.train_file": str(saved / "rows.jsonl"),
                        "task.test_file": str(saved / "rows.jsonl"),
                    },
                ),
            )
        )


def test_devices_that_split_the_weights_find_the_same(saved, tmp_path):
    found = []
    for count in (1, 2):
        own = prepare(tmp_path, make_config(saved, "own", **{"mesh.fsdp": count}))
        found.append(weights.check(own, base_model.make(own)))
    assert found[0].completion == found[1].completion
    assert found[0].losses == pytest.approx(found[1].losses, abs=1e-3)


def test_demonstrations_with_held_out_prompts_are_not_shown(saved, tmp_path, capsys):
    source = tmp_path / "shown.jsonl"
    rows = [json.loads(line) for line in (saved / "rows.jsonl").read_text().splitlines()]
    other = {"question": "Water boils in the morning", "answer": "and it is very hot"}
    fields = {"pretrain.demonstrations.source": str(source), "pretrain.steps": 2}
    fields |= {"pretrain.batch": 8, "pretrain.micro_batch": 8}
    config = make_config(saved, "own", **fields)  # whose test has all questions of the rows
    source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, other]))
    shown = prepare(tmp_path, config).demonstrations
    assert [example.prompt for example in shown] == [other["question"]]
    assert f"{len(rows)} demonstrations with validation or test" in capsys.readouterr().err
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="only prompts of the task's validation and test"):
        prepare(tmp_path, config)
