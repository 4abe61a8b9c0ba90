"""Families of block diffusion: random checkpoints against forward passes written by hand."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import test_huggingface as made
import transformers

from diffpo_jax.arrays.types import Prompts
from diffpo_jax.config import ModelConfig
from diffpo_jax.diffusion.denoise import denoise
from diffpo_jax.models import huggingface, published_config
from diffpo_jax.models.families import FAMILIES
from diffpo_jax.system.errors import UserError

V, D, F, LAYERS, HEADS, KV = 24, 16, 32, 3, 4, 2
THETA, EPS, ATOL = 1000.0, 1e-6, 5e-4
PROMPT, LENGTH, PAD = 6, 6, (0, 1, 4)  # columns, and those of padding on the left of each row
TOKENS = np.random.default_rng(1).integers(0, V, (len(PAD), PROMPT + LENGTH)).astype(np.int32)
MASK = np.arange(PROMPT + LENGTH) >= np.array(PAD)[:, None]


@dataclasses.dataclass(frozen=True)
class Form:
    """What a family's description says."""

    family: str
    block: int
    dh: int  # width of a head
    key: str | None  # of config.json, for the size of blocks
    origin: str = "prompt"

    @property
    def norms(self):
        return self.family != "fast_dllm_v2"


FORMS = {
    "sdar": Form("sdar", 4, 6, "block_size"),  # heads that are not D / HEADS wide
    "fast_dllm_v2": Form("fast_dllm_v2", 4, 4, "bd_size"),
    "bd3lm": Form("a2d_qwen3", 3, 6, None, "completion"),
}
FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
TIED = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


def weights(form, tied):
    """Random values by published name."""
    rng = np.random.default_rng(0)
    q, kv = HEADS * form.dh, KV * form.dh
    shapes = {"q": (q, D), "k": (kv, D), "v": (kv, D), "o": (D, q)}
    out = {"model.embed_tokens.weight": rng.normal(size=(V, D))}
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        for name, shape in shapes.items():
            linear = f"{layer}.self_attn.{name}_proj"
            out[f"{linear}.weight"] = rng.normal(size=shape) / np.sqrt(shape[1])
            if not form.norms and name != "o":
                out[f"{linear}.bias"] = rng.normal(size=shape[0])
        for name in "qk" if form.norms else "":
            out[f"{layer}.self_attn.{name}_norm.weight"] = 1 + 0.2 * rng.normal(size=form.dh)
        for name, shape in {"gate": (F, D), "up": (F, D), "down": (D, F)}.items():
            out[f"{layer}.mlp.{name}_proj.weight"] = rng.normal(size=shape) / np.sqrt(shape[1])
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"{layer}.{name}.weight"] = 1 + 0.2 * rng.normal(size=D)
    out["model.norm.weight"] = 1 + 0.2 * rng.normal(size=D)
    if not tied:
        out["lm_head.weight"] = rng.normal(size=(V, D)) / np.sqrt(D)
    return {name: value.astype(np.float32) for name, value in out.items()}


def config_of(form, tied):
    config = {
        "model_type": FAMILIES[form.family].marks["model_type"],
        "hidden_size": D,
        "intermediate_size": F,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "rope_theta": THETA,
        "rms_norm_eps": EPS,
        "vocab_size": V,
        "tie_word_embeddings": tied,
    }
    config |= {form.key: form.block} if form.key else {}
    return config | ({"head_dim": form.dh} if form.norms else {})


def save(directory, form, *, tied=False, shards=1, **config):
    """A checkpoint; a key of config.json that is given as None is left out."""
    directory.mkdir()
    values = weights(form, tied)
    config = {k: v for k, v in (config_of(form, tied) | config).items() if v is not None}
    (directory / "config.json").write_text(json.dumps(config))
    if shards == 1:
        safetensors.numpy.save_file(values, directory / huggingface.SINGLE)
        return directory, values
    file_of = {}
    for n in range(shards):
        file, names = f"model-{n + 1:05d}-of-{shards:05d}.safetensors", list(values)[n::shards]
        safetensors.numpy.save_file({k: values[k] for k in names}, directory / file)
        file_of |= dict.fromkeys(names, file)
    (directory / huggingface.INDEX).write_text(json.dumps({"weight_map": file_of}))
    return directory, values


def given(form, directory, **fields):
    fields = {"attention_block": form.block, "attention_origin": form.origin} | fields
    return ModelConfig(weights=str(directory), **fields)


def read(form, directory, **fields):
    model = huggingface.adopt_sizes(given(form, directory, **fields))
    assert (model.family, model.attention_block) == (form.family, form.block)
    assert model.attention_origin == form.origin
    return huggingface.read_weights(directory, made.abstract(model), model.family), model


def sees(form, row):
    """Which columns each column of a row sees, one by one."""
    size = PROMPT + LENGTH
    out = np.zeros((size, size), bool)
    for i in range(size):
        for j in range(size):
            # Blocks of the completion end where it begins, which PROMPT columns before it divide.
            start = PAD[row] if form.origin == "prompt" else 0
            earlier = (j - start) // form.block <= (i - start) // form.block
            out[i, j] = earlier and j >= PAD[row] and i >= PAD[row]
    return out


def rms(x, scale):
    return x / np.sqrt(np.mean(x**2) + EPS) * scale


def turn(x, position):
    """The rotary embedding, as a product of complex numbers: pairs (i, i + Dh/2)."""
    half = len(x) // 2
    angle = position * THETA ** (-np.arange(half) / half)
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag])


def forward(form, values, row, tied):
    """Logits [S V] of a row by the description, a position and a head at a time."""
    w = {name: value.astype(np.float64) for name, value in values.items()}
    x, seen = w["model.embed_tokens.weight"][TOKENS[row]], sees(form, row)
    real = range(PAD[row], PROMPT + LENGTH)
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        h = np.array([rms(y, w[f"{layer}.input_layernorm.weight"]) for y in x])
        part = {}
        for name, heads in {"q": HEADS, "k": KV, "v": KV}.items():
            linear = f"{layer}.self_attn.{name}_proj"
            y = h @ w[f"{linear}.weight"].T + w.get(f"{linear}.bias", 0)
            part[name] = y.reshape(len(x), heads, form.dh)
        for name in "qk":
            for at in real:
                for head in part[name][at]:
                    if form.norms:
                        head[:] = rms(head, w[f"{layer}.self_attn.{name}_norm.weight"])
                    head[:] = turn(head, at - PAD[row])
        out = np.zeros((len(x), HEADS, form.dh))
        for at in real:
            for head in range(HEADS):
                group = head // (HEADS // KV)
                keys, v = (part[n][seen[at], group] for n in "kv")
                score = np.exp(keys @ part["q"][at, head] / np.sqrt(form.dh))
                out[at, head] = score / score.sum() @ v
        x = x + out.reshape(len(x), -1) @ w[f"{layer}.self_attn.o_proj.weight"].T
        h = np.array([rms(y, w[f"{layer}.post_attention_layernorm.weight"]) for y in x])
        gate, up = (h @ w[f"{layer}.mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{layer}.mlp.down_proj.weight"].T
    x = np.array([rms(y, w["model.norm.weight"]) for y in x])
    return x @ w["model.embed_tokens.weight" if tied else "lm_head.weight"].T


def in_torch(directory, form):
    """Logits [B S V] of transformers' own network, with the mask by hand."""
    torch = pytest.importorskip("torch")
    kind = "Qwen3" if form.norms else "Qwen2"
    config = json.loads((directory / "config.json").read_text()) | {"model_type": kind.lower()}
    (directory / "config.json").write_text(json.dumps(config))
    network = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    seen = np.array([sees(form, row) for row in range(len(PAD))])
    hidden = np.where(seen, 0, -1e30).astype(np.float32)[:, None]
    positions = np.maximum(np.cumsum(MASK, axis=1) - 1, 0)
    with torch.no_grad():
        out = network(
            torch.from_numpy(TOKENS).long(),
            attention_mask=torch.from_numpy(hidden),
            position_ids=torch.from_numpy(positions),
            use_cache=False,
        )
    return out.logits.numpy()


@FORM
@TIED
@pytest.mark.parametrize("shards", [1, 3], ids=["single", "sharded"])
def test_logits_and_export(tmp_path, form, tied, shards):
    source, values = save(tmp_path / "in", form, tied=tied, shards=shards)
    denoiser, model = read(form, source)
    ours = made.logits(made.policy_of(model), denoiser, jnp.asarray(TOKENS), jnp.asarray(MASK))
    for row in range(len(PAD)):
        expected = forward(form, values, row, tied)
        np.testing.assert_allclose(ours[row][MASK[row]], expected[MASK[row]], atol=ATOL)
    assert np.abs(expected).max() > 0.5
    # With its config.json, and with one made from the configuration.
    for name, origin in (("copied", source), ("written", None)):
        out = tmp_path / name
        huggingface.write(out, denoiser, model, lineage={}, source=origin, shard_bytes=4000)
        _, exported = made.stored(out)
        assert exported.keys() == values.keys()
        for key, value in values.items():
            np.testing.assert_array_equal(exported[key], value, err_msg=key)
        # An export says its blocks, so that the configuration need not.
        alone = huggingface.adopt_sizes(ModelConfig(weights=str(out)))
        assert dataclasses.replace(alone, weights=None) == dataclasses.replace(model, weights=None)


@FORM
@TIED
def test_logits_equal_those_of_transformers(tmp_path, form, tied):
    source, _ = save(tmp_path / "in", form, tied=tied)
    denoiser, model = read(form, source)
    ours = made.logits(made.policy_of(model), denoiser, jnp.asarray(TOKENS), jnp.asarray(MASK))
    np.testing.assert_allclose(ours[MASK], in_torch(source, form)[MASK], atol=ATOL)


@FORM
def test_predictions_of_a_completion(tmp_path, form):
    """Of its own position, or, for Fast-dLLM v2, of the next one."""
    source, values = save(tmp_path / "in", form)
    denoiser, model = read(form, source)
    policy, params = made.policy_of(model), {"denoiser": denoiser}
    prompts = Prompts(jnp.asarray(TOKENS[:, :PROMPT]), jnp.asarray(MASK[:, :PROMPT]))
    hidden = denoise(policy, params, prompts, jnp.asarray(TOKENS[:, PROMPT:])).hidden
    logits = policy.logits(params, hidden)
    first = PROMPT - (form.family == "fast_dllm_v2")
    for row in range(len(PAD)):
        expected = forward(form, values, row, False)[first : first + LENGTH]
        np.testing.assert_allclose(logits[row], expected, atol=ATOL)


SIZED = [FORMS["sdar"], FORMS["fast_dllm_v2"]]


@pytest.mark.parametrize("form", SIZED, ids=lambda form: form.family)
def test_blocks_that_contradict_the_checkpoint_are_refused(tmp_path, form):
    source, _ = save(tmp_path / "in", form)
    assert huggingface.adopt_sizes(ModelConfig(weights=str(source))).attention_block == form.block
    with pytest.raises(UserError, match=f"attention_block=8, but .*{form.key}=4: set it to 4") as e:
        huggingface.adopt_sizes(given(form, source, attention_block=8))
    assert "\n" not in str(e.value)
    source, _ = save(tmp_path / "silent", form, **{form.key: None})
    with pytest.raises(UserError, match=f"has no {form.key}, the positions of a block") as e:
        huggingface.adopt_sizes(ModelConfig(weights=str(source)))
    assert "\n" not in str(e.value)
    found = huggingface.adopt_sizes(given(form, source, attention_block=8))
    assert found.attention_block == 8
    source, _ = save(tmp_path / "odd", form, **{form.key: "4"})
    with pytest.raises(UserError, match=f"{form.key} must be a whole number from 1 to"):
        huggingface.adopt_sizes(ModelConfig(weights=str(source)))


def test_an_export_of_a_conversion_says_its_blocks_and_is_not_read_with_others(tmp_path):
    form = FORMS["bd3lm"]
    source, _ = save(tmp_path / "in", form)
    denoiser, model = read(form, source)
    huggingface.write(tmp_path / "out", denoiser, model, lineage={}, source=source)
    with pytest.raises(UserError, match=r"attention_block=2, but .*attention_block=3: set"):
        huggingface.adopt_sizes(given(form, tmp_path / "out", attention_block=2))
    config = json.loads((tmp_path / "out/config.json").read_text())
    (tmp_path / "out/config.json").write_text(json.dumps(config | {"attention_origin": "x"}))
    with pytest.raises(UserError, match="attention_origin must be completion or prompt"):
        huggingface.adopt_sizes(given(form, tmp_path / "out"))


@pytest.mark.parametrize("form", SIZED, ids=lambda form: form.family)
def test_a_network_of_these_families_sees_by_its_blocks(form):
    model = ModelConfig(family=form.family, attention_block=4, attention_origin="prompt")
    made.policy_of(model)
    with pytest.raises(UserError, match=f"attention_block is not set, .* {form.family!r} see by"):
        made.policy_of(dataclasses.replace(model, attention_block=None))
    with pytest.raises(UserError, match="counts blocks from the prompt"):
        made.policy_of(dataclasses.replace(model, attention_origin="completion"))


def test_a_checkpoint_of_another_family_is_refused(tmp_path):
    source, _ = save(tmp_path / "in", FORMS["sdar"])
    with pytest.raises(UserError, match="its model_type is 'sdar', the family's is 'a2d-qwen3'"):
        published_config.read_model_config(source, "a2d_qwen3")
    with pytest.raises(UserError, match="its model_type is 'sdar', the family's is 'qwen2'"):
        huggingface.adopt_sizes(given(FORMS["sdar"], source, family="open_dcoder"))
    save(tmp_path / "moe", FORMS["sdar"], model_type="sdar_moe")
    with pytest.raises(UserError, match="'sdar_moe' belongs to no known family"):
        huggingface.adopt_sizes(given(FORMS["sdar"], tmp_path / "moe"))
