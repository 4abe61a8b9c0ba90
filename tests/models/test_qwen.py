"""Conversions of Qwen to diffusion against transformers' own networks, which differ in the mask."""

import json
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import test_huggingface as made
import transformers

from diffpo_jax.config import ModelConfig
from diffpo_jax.models import huggingface
from diffpo_jax.models.families import FAMILIES
from diffpo_jax.system.errors import UserError

torch = pytest.importorskip("torch")
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from benchmarks import autoregressive  # noqa: E402 (it needs torch)

SIZES = {
    "vocab_size": made.V,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
KINDS = {"a2d_qwen3": "Qwen3", "a2d_qwen2": "Qwen2", "open_dcoder": "Qwen2"}
FAMILY = pytest.mark.parametrize("family", KINDS)
ATOL = 5e-4


def save(directory, family, *, tied, shards):
    """A random checkpoint as transformers saves it, with the family's model_type."""
    kind = KINDS[family]
    own = {"head_dim": 6} if kind == "Qwen3" else {}  # not 16 / 4
    config = getattr(transformers, f"{kind}Config")(**SIZES, **own, tie_word_embeddings=tied)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for name, x in model.named_parameters():
            # Norms and biases would be ones and zeros.
            x.copy_(torch.randn_like(x) * (0.2 if x.ndim == 1 else 1 / 4) + ("norm" in name))
    model.save_pretrained(directory, max_shard_size="4KB" if shards else "1GB")
    values = json.loads((directory / "config.json").read_text())
    values["model_type"] = FAMILIES[family].marks["model_type"]
    (directory / "config.json").write_text(json.dumps(values))
    return directory


def theirs(directory, family):
    """Logits [B S V] of the saved network, with a mask through which every token sees all."""
    kind = KINDS[family]
    config = json.loads((directory / "config.json").read_text()) | {"model_type": kind.lower()}
    (directory / "config.json").write_text(json.dumps(config))
    model = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    positions = np.maximum(np.cumsum(made.MASK, axis=1) - 1, 0)
    hidden = np.where(made.MASK, 0.0, -1e30)[:, None, None, :]  # padding alone
    size = made.MASK.shape[1]
    mask = np.broadcast_to(hidden, (2, 1, size, size)).astype(np.float32)
    with torch.no_grad():
        out = model(
            torch.from_numpy(made.TOKENS).long(),
            attention_mask=torch.from_numpy(mask.copy()),
            position_ids=torch.from_numpy(positions),
            use_cache=False,
        )
    return out.logits.numpy()


def read(directory, family):
    given = ModelConfig(family=family, weights=str(directory))
    model = huggingface.adopt_sizes(given)
    assert model.family == family
    denoiser = huggingface.read_weights(directory, made.abstract(model), family)
    return denoiser, model


@FAMILY
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("shards", [False, True], ids=["single", "sharded"])
def test_logits_equal_those_of_transformers_before_and_after_an_export(
    tmp_path, family, tied, shards
):
    source = save(tmp_path / "in", family, tied=tied, shards=shards)
    denoiser, model = read(source, family)
    policy = made.policy_of(model)
    assert policy.logit_shift == (family == "open_dcoder")
    ours = made.logits(policy, denoiser, jnp.asarray(made.TOKENS), jnp.asarray(made.MASK))
    # With its config.json, and with one made from the configuration.
    for name, origin in (("copied", source), ("written", None)):
        out = tmp_path / name
        huggingface.write(out, denoiser, model, lineage={}, source=origin, shard_bytes=4000)
        again, _ = read(out, family)
        assert again.keys() == denoiser.keys()
    _, values = made.stored(source)
    _, exported = made.stored(tmp_path / "written")
    assert exported.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(exported[name], value, err_msg=name)
    for directory in (source, tmp_path / "copied", tmp_path / "written"):
        expected = theirs(directory, family)
        np.testing.assert_allclose(ours[made.MASK], expected[made.MASK], atol=ATOL)
    assert np.abs(expected).max() > 0.5


def test_the_tiny_network_that_is_converted_is_one_of_qwen3(tmp_path, monkeypatch, capsys):
    words = [f"--out={tmp_path}", "--steps=2", "--problems=40"]
    monkeypatch.setattr(sys, "argv", ["autoregressive.py", *words])
    autoregressive.main()
    assert "of 30 solutions" in capsys.readouterr().out
    for name in ("ar", "random"):
        model = huggingface.adopt_sizes(
            ModelConfig(weights=str(tmp_path / name), autoregressive=True)
        )
        assert (model.family, model.tied, model.head_dim) == ("a2d_qwen3", True, 48)
    seen = [
        json.loads(line)["question"]
        for name in ("train", "test")
        for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()
    ]
    assert len(seen) == len(set(seen)) == 1_712


def test_the_family_of_a_model_type_of_left_to_right_networks_must_be_named(tmp_path):
    source = save(tmp_path / "in", "open_dcoder", tied=True, shards=False)
    with pytest.raises(UserError, match=r"set config\.model\.family=open_dcoder") as caught:
        huggingface.adopt_sizes(ModelConfig(weights=str(source)))
    assert "\n" not in str(caught.value)
    other = save(tmp_path / "other", "a2d_qwen2", tied=True, shards=False)
    with pytest.raises(UserError, match="model_type is 'a2d-qwen2', the family's is 'qwen2'"):
        huggingface.adopt_sizes(ModelConfig(family="open_dcoder", weights=str(other)))
