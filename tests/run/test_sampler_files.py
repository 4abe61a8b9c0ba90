"""What an export writes beside the weights: settings of the sampler, its head, and the card."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from least import least

from diffpo_jax.config import ModelConfig
from diffpo_jax.run import model_card, sampler_files
from diffpo_jax.workdir import layout

PARAMS = {
    "threshold": {"hidden": {"kernel": np.ones((16, 32), np.float32), "bias": np.ones(32)}},
    "state_head": {"pair": np.zeros((16, 16, 8), np.float32)},
}
LINEAGE = {"base_sha256": "abc", "commit": "def"}


def written(directory, model="trained", **fields):
    directory.mkdir(exist_ok=True)
    config = least(**fields)
    return config, sampler_files.write(directory, config, model, PARAMS)


def test_a_head_by_prompt(tmp_path):
    config, sampler = written(tmp_path)
    found = json.loads((tmp_path / "sampler.json").read_text())
    assert found == sampler.settings
    assert (found["rule"], found["dial"], found["dial_unit"]) == ("entropy_bounded", None, "nats")
    assert found["head"]["kind"] == "prompt" and found["head"]["gamma_0"] == 0.1
    assert found["head"]["layers"] == [16, 32, 2]
    assert found["never_drawn"] == [found["mask_id"]] == [1] and found["end_ids"] == [2]
    assert found["length"] == config.sampler.length and found["tokens"] == 13
    head = safetensors.numpy.load_file(tmp_path / "sampler_head.safetensors")
    assert head.keys() == {"hidden.kernel", "hidden.bias"}
    assert sampler.line == "rule entropy_bounded, gamma learned for each prompt"
    compile((tmp_path / "custom_generate/generate.py").read_text(), "generate.py", "exec")


def test_the_head_by_state(tmp_path):
    _, sampler = written(tmp_path, mode="sampler", **{"sampler.rule": "state"})
    head = sampler.settings["head"]
    assert (head["kind"], head["places"], head["pairs"]) == ("state", 16, 4)
    assert sampler.settings["dial"] == 1.0 and sampler.settings["dial_name"] == "price"
    saved = safetensors.numpy.load_file(tmp_path / "sampler_head.safetensors")
    assert saved.keys() == {"pair"}


@pytest.mark.parametrize(
    ("model", "fields", "dial"),
    [
        ("trained", {"mode": "model", "threshold.gamma": 0.3}, 0.3),
        ("base", {"threshold.gamma": 0.2}, 0.2),
        ("trained", {"mode": "model", "sampler.rule": "top_k", "sampler.steps": 8}, 8.0),
        ("trained", {"mode": "model", "sampler.rule": "confidence"}, 0.9),
    ],
)
def test_a_fixed_rule_has_no_head(tmp_path, model, fields, dial):
    fields |= {"rl.objective.selection": "none"} if "mode" in fields else {}
    _, sampler = written(tmp_path, model, **fields)
    assert sampler.settings["head"] is None and sampler.settings["dial"] == dial
    assert sampler.line.endswith(f"fixed at {dial:g}, for no head was trained")
    assert not (tmp_path / "sampler_head.safetensors").exists()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sampler.rule": "random"}, "rule 'random'"),
        ({"sampler.rule": "top_k", "sampler.schedule": "dream"}, "config.sampler.schedule"),
        ({"sampler.cache": "dual"}, "config.sampler.cache='dual'"),
        (
            {
                "model.attention_block": 4,
                "model.attention_origin": "prompt",
                "sampler.block_length": 4,
                "sampler.cache": "block",
            },
            "config.model.attention_block=4",
        ),
        ({"sampler.guidance": 0.5}, "config.sampler.guidance=0.5"),
    ],
)
def test_what_the_code_cannot_do_is_said_and_not_written(tmp_path, fields, named):
    (tmp_path / "sampler.json").write_text("{}")  # copied from the weights that RL began from
    _, sampler = written(tmp_path, **{"mode": "model", "rl.objective.selection": "none"} | fields)
    assert sampler.settings is None and not list(tmp_path.iterdir())
    assert sampler.line.startswith("not written, because its code for PyTorch has no ")
    assert named in sampler.line and "\n" not in sampler.line


def card(directory, config, sampler, source=None):
    workdir = layout.Workdir(directory / "run")
    facts = {"lineage": LINEAGE, "source": source, "sampler": sampler}
    model_card.write(directory, config, "trained", workdir, **facts)
    return (directory / "README.md").read_text()


def test_a_card_says_what_was_not_measured_and_not_written(tmp_path):
    config, sampler = written(tmp_path, **{"sampler.cache": "dual"})
    text = card(tmp_path, config, sampler)
    assert "Nothing: the run has no finished evaluation." in text
    assert "The sampler was not written" in text and "model.generate" not in text
    assert "trained from random ones" in text and "SHA-256 of the base's weights: `abc`" in text


def test_a_card_names_the_base_and_its_licence(tmp_path):
    config, sampler = written(tmp_path)
    assert "price of calls 0.3 (multiplicative)" in card(tmp_path, config, sampler)
    source = tmp_path / "base"
    source.mkdir()
    weights = ModelConfig(family="llada", weights="owner/name@main")
    config = dataclasses.replace(config, model=weights)
    assert "Weights: see the licence of the base." in card(tmp_path, config, sampler, source)
    (source / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# Model\n")
    text = card(tmp_path, config, sampler, source)
    front = text.split("---")[1]
    assert "license: mit" in front and "base_model: owner/name@main" in front
    assert "AutoTokenizer" in text and "- Weights: owner/name@main." in text
    (source / "README.md").write_text("# Model\n\nlicense: mit\n")  # no front matter
    assert model_card.licence_of(source) is None


def test_a_card_has_the_frontier_of_the_run(tmp_path):
    config, sampler = written(tmp_path)
    point = {"accuracy": 0.5, "nfe": 4.0, "tokens_per_call": 4.0, "forced": 0.0}
    learned = point | {"accuracy": 0.875, "gamma_p50": 0.2}
    (tmp_path / "run/report").mkdir(parents=True)
    summary = {"trained": {"frontier": [{"gamma": 0.1} | point], "learned": learned}}
    summary |= {"prompts": 1_024, "seed": 3, "dial": "gamma"}
    (tmp_path / "run/report/summary.json").write_text(json.dumps(summary))
    text = card(tmp_path, config, sampler)
    assert "| 0.1 | 50.0% | 4.00 | 4.0 |" in text and "| learned | 87.5% | 4.00 | 4.0 |" in text
    assert "1,024 test prompts, one seed (3)" in text
