"""Checkpoints made here with published names: read, written, and run in plain PyTorch."""

import dataclasses
import json
import math
import os
import stat

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from diffpo_jax.config import MeshConfig, ModelConfig, ThresholdConfig
from diffpo_jax.distributed import sharding
from diffpo_jax.distributed.mesh import make_mesh
from diffpo_jax.models import huggingface, published_config, quantization
from diffpo_jax.models.families import FAMILIES, make_policy
from diffpo_jax.system.errors import UserError

V, D, F, LAYERS, HEADS = 24, 16, 32, 3, 4
KV = {"llada": 4, "dream": 2, "a2d_qwen3": 2}
DH = {"llada": 4, "dream": 4, "a2d_qwen3": 6}  # the last is not D / HEADS
CONFIGS = {
    "llada": {
        "model_type": "llada",
        "d_model": D,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "n_kv_heads": KV["llada"],
        "mlp_hidden_size": F,
        "rope_theta": 500.0,
        "rms_norm_eps": 1e-5,
        "embedding_size": V,
        "weight_tying": False,
    },
    "dream": {
        "model_type": "Dream",
        "hidden_size": D,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV["dream"],
        "intermediate_size": F,
        "rope_theta": 1000.0,
        "rms_norm_eps": 1e-6,
        "vocab_size": V,
    },
}
CONFIGS["a2d_qwen3"] = CONFIGS["dream"] | {
    "model_type": "a2d-qwen3",
    "head_dim": DH["a2d_qwen3"],
    "attention_bias": False,
}
# (embedding, block, q, k, v, o, gate, up, down, norms of a block, last norm, head)
NAMES = {
    "llada": (
        "model.transformer.wte",
        "model.transformer.blocks",
        ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"),
        ("attn_norm", "ff_norm"),
        "model.transformer.ln_f",
        "model.transformer.ff_out",
    ),
    "dream": (
        "model.embed_tokens",
        "model.layers",
        (
            *(f"self_attn.{n}_proj" for n in "qkvo"),
            *(f"mlp.{n}_proj" for n in ("gate", "up", "down")),
        ),
        ("input_layernorm", "post_attention_layernorm"),
        "model.norm",
        "lm_head",
    ),
}
NAMES["a2d_qwen3"] = NAMES["dream"]
TOKENS = np.array([[0, 0, 3, 1, 4, 2], [4, 0, 2, 5, 1, 3]], np.int32)
MASK = np.array([[False, False, True, True, True, True], [True] * 6])
FAMILY = pytest.mark.parametrize("family", CONFIGS)
TIED = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
TYING = dict.fromkeys(CONFIGS, "tie_word_embeddings") | {"llada": "weight_tying"}


def weights(family, dtype=np.float32):
    """Random values by published name."""
    rng = np.random.default_rng(0)
    embed, block, linear, norms, last, head = NAMES[family]
    dh = DH[family]
    q, kv = HEADS * dh, KV[family] * dh
    shapes = [(q, D), (kv, D), (kv, D), (D, q), (F, D), (F, D), (D, F)]
    out = {f"{embed}.weight": rng.normal(size=(V, D))}
    for i in range(LAYERS):
        for name, shape in zip(linear, shapes):
            out[f"{block}.{i}.{name}.weight"] = rng.normal(size=shape) * shape[1] ** -0.5
        if family == "dream":
            for name, shape in zip(linear[:3], shapes):
                out[f"{block}.{i}.{name}.bias"] = rng.normal(size=shape[0])
        for name in norms:
            out[f"{block}.{i}.{name}.weight"] = 1 + 0.2 * rng.normal(size=D)
        for name in ("q_norm", "k_norm") if family == "a2d_qwen3" else ():
            out[f"{block}.{i}.self_attn.{name}.weight"] = 1 + 0.2 * rng.normal(size=dh)
    out[f"{last}.weight"] = 1 + 0.2 * rng.normal(size=D)
    out[f"{head}.weight"] = rng.normal(size=(V, D)) * D**-0.5
    return {name: value.astype(dtype) for name, value in out.items()}


def save(directory, family, values, shards=3, **config):
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIGS[family] | config))
    file_of = {}
    for n in range(shards):
        names = list(values)[n::shards]
        file = f"model-{n + 1:05d}-of-{shards:05d}.safetensors"
        safetensors.numpy.save_file({k: values[k] for k in names}, directory / file)
        file_of |= dict.fromkeys(names, file)
    (directory / huggingface.INDEX).write_text(json.dumps({"weight_map": file_of}))
    return directory


def model_of(directory, family, **fields):
    return ModelConfig(
        family=family, **published_config.read_model_config(directory, family), **fields
    )


def policy_of(model):
    return make_policy(model, ThresholdConfig(hidden=4), vocab=V, mask_id=5, platform="cpu")


def abstract(model, shape=(1, 1, 1)):
    tree = {"denoiser": jax.eval_shape(policy_of(model).init, jax.random.key(0))["denoiser"]}
    layout = sharding.shardings(tree, make_mesh(MeshConfig(*shape)))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, layout
    )["denoiser"]


def read(directory, family, shape=(1, 1, 1), **fields):
    model = model_of(directory, family, **fields)
    return huggingface.read_weights(directory, abstract(model, shape), family), model


def stored(directory):
    files = sorted(directory.glob("*.safetensors"))
    return len(files), {k: v for f in files for k, v in safetensors.numpy.load_file(f).items()}


def tied_weights(family, values):
    """The same weights without the head, for which the embedding is used."""
    return {k: v for k, v in values.items() if k != f"{NAMES[family][-1]}.weight"}


@TIED
@FAMILY
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reading_and_writing_is_bit_equal(tmp_path, family, dtype, tied):
    values = weights(family, ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
    values = tied_weights(family, values) if tied else values
    source = save(tmp_path / "in", family, values, **{TYING[family]: tied})
    params, model = read(source, family)  # bfloat16 -> float32 parameters -> bfloat16
    out = tmp_path / "out"
    huggingface.write(out, params, model, lineage={"base": "x"}, dtype=dtype, shard_bytes=4000)
    count, again = stored(out)
    assert count > 2
    assert again.keys() == values.keys()
    for name, value in values.items():
        assert again[name].dtype == value.dtype
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    assert published_config.read_model_config(out, family) == published_config.read_model_config(
        source, family
    )
    assert json.loads((out / "config.json").read_text())[TYING[family]] == tied
    index = json.loads((out / huggingface.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in values.values())
    assert json.loads((out / huggingface.LINEAGE).read_text()) == {"base": "x"}


@FAMILY
def test_a_tied_head_may_be_stored_once_more_but_not_as_another(tmp_path, family):
    values = weights(family)
    embed, head = (f"{NAMES[family][i]}.weight" for i in (0, -1))
    values[head] = values[embed].copy()
    source = save(tmp_path / "same", family, values, **{TYING[family]: True})
    params, _ = read(source, family)
    assert "unembed" not in params
    np.testing.assert_array_equal(params["embed"], values[embed])
    values[head][3, 1] += 1
    source = save(tmp_path / "other", family, values, **{TYING[family]: True})
    with pytest.raises(UserError, match=rf"ties the head .*{TYING[family]}.*{head} is another"):
        read(source, family)


@pytest.mark.parametrize("shift", [0, 1])
def test_an_export_keeps_a_shift_that_is_not_the_familys(tmp_path, shift):
    source = save(tmp_path / "in", "a2d_qwen3", weights("a2d_qwen3"))
    params, model = read(source, "a2d_qwen3", logit_shift=shift)
    assert policy_of(model).logit_shift == shift
    for name, origin in (("copied", source), ("written", None)):
        out = tmp_path / name
        huggingface.write(out, params, model, lineage={}, source=origin)
        kept = json.loads((out / "config.json").read_text()).get("logit_shift")
        assert kept == (1 if shift else None)
        again = huggingface.adopt_sizes(ModelConfig(weights=str(out)))
        assert policy_of(again).logit_shift == shift
        # What the user says goes before what the file says.
        own = huggingface.adopt_sizes(ModelConfig(weights=str(out), logit_shift=1 - shift))
        assert policy_of(own).logit_shift == 1 - shift
    save(tmp_path / "odd", "a2d_qwen3", weights("a2d_qwen3"), logit_shift=True)
    with pytest.raises(UserError, match="logit_shift must be 0 or 1; it is True"):
        huggingface.adopt_sizes(ModelConfig(weights=str(tmp_path / "odd")))


def torch_pass(family, values, tokens, mask):
    """Hidden states [S D] and logits [S V] of one row: the published pass in plain PyTorch."""
    torch = pytest.importorskip("torch")
    w = {name: torch.from_numpy(value) for name, value in values.items()}
    embed, block, linear, norms, last, head = NAMES[family]
    config = CONFIGS[family]
    eps, kv_heads, dh = config["rms_norm_eps"], KV[family], DH[family]

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w[f"{name}.weight"]

    def norm_heads(x, name):
        name = name.replace("_proj", "_norm")
        return norm(x, name) if f"{name}.weight" in w else x

    def project(x, name):
        return torch.nn.functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    position = torch.from_numpy(np.maximum(np.cumsum(mask) - 1, 0))
    frequency = config["rope_theta"] ** (-torch.arange(0, dh, 2) / dh)
    angle = torch.outer(position.float(), frequency).repeat(1, 2)

    def rope(x):  # [H S Dh]
        a, b = x[..., : dh // 2], x[..., dh // 2 :]
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    x = w[f"{embed}.weight"][torch.from_numpy(tokens).long()]
    for i in range(LAYERS):
        q_, k_, v_, o_, gate, up, down = (f"{block}.{i}.{name}" for name in linear)
        h = norm(x, f"{block}.{i}.{norms[0]}")
        q, k, v = (
            project(h, name).view(len(tokens), -1, dh).transpose(0, 1) for name in (q_, k_, v_)
        )
        q, k = norm_heads(q, q_), norm_heads(k, k_)
        k, v = (
            y.repeat_interleave(HEADS // kv_heads, 0) for y in (rope(k), v)
        )  # head h reads group h // (H / Hk)
        scores = rope(q) @ k.transpose(1, 2) / math.sqrt(dh)
        scores = scores.masked_fill(~torch.from_numpy(mask), -torch.inf)
        y = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(tokens), -1)
        x = x + project(y, o_)
        h = norm(x, f"{block}.{i}.{norms[1]}")
        x = x + project(torch.nn.functional.silu(project(h, gate)) * project(h, up), down)
    x = norm(x, last)
    return x.numpy(), project(x, head).numpy()


def logits(policy, denoiser, tokens, mask):
    params = {"denoiser": denoiser}
    return np.asarray(policy.logits(params, policy.hidden(params, tokens, mask)))


@TIED
@FAMILY
def test_logits_equal_those_of_the_published_network(tmp_path, family, tied):
    values = weights(family)
    kept = tied_weights(family, values) if tied else values
    source = save(tmp_path / "in", family, kept, **{TYING[family]: tied})
    params, model = read(source, family)
    if tied:
        embed, *_, head = NAMES[family]
        values[f"{head}.weight"] = values[f"{embed}.weight"]
    policy = policy_of(model)
    assert policy.logit_shift == (family == "dream")
    ours = logits(policy, params, jnp.asarray(TOKENS), jnp.asarray(MASK))
    for row in range(2):
        _, theirs = torch_pass(family, values, TOKENS[row], MASK[row])
        np.testing.assert_allclose(ours[row][MASK[row]], theirs[MASK[row]], atol=5e-4)
    alone = logits(policy, params, jnp.asarray(TOKENS[:1, 2:]), jnp.ones((1, 4), bool))
    np.testing.assert_allclose(ours[0, 2:], alone[0], atol=1e-5)


@FAMILY
def test_sharded_read_is_equal_and_reads_only_its_part(tmp_path, family, monkeypatch):
    source = save(tmp_path / "in", family, weights(family))
    whole, _ = read(source, family)
    sizes = []
    real = jax.make_array_from_callback

    def watched(shape, where, callback):
        def part(index):
            sizes.append(callback(index).size / math.prod(shape))
            return callback(index)

        return real(shape, where, part)

    monkeypatch.setattr(jax, "make_array_from_callback", watched)
    split, model = read(source, family, (2, 2, 2))
    wanted = abstract(model, (2, 2, 2))
    for a, b, c in zip(*map(jax.tree.leaves, (whole, split, wanted))):
        np.testing.assert_array_equal(a, b)
        assert b.sharding.is_equivalent_to(c.sharding, b.ndim)
    assert min(sizes) == 1 / 4  # of matrices; norms are whole on every device


@FAMILY
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_kernels_are_quantized_as_they_are_read(tmp_path, family, kind, monkeypatch):
    monkeypatch.setattr(quantization, "BLOCK", 4)  # so that devices share the blocks of a column
    source = save(tmp_path / "in", family, weights(family))
    whole, _ = read(source, family)
    expected = quantization.quantize_blocks({"denoiser": whole}, kind)["denoiser"]
    mesh = make_mesh(MeshConfig(2, 1, 2))
    shapes = jax.eval_shape(lambda p: quantization.quantize_blocks(p, kind), {"denoiser": whole})
    wanted = sharding.abstract(shapes, mesh)["denoiser"]
    got = huggingface.read_weights(source, wanted, family)
    for a, b, c in zip(*map(jax.tree.leaves, (expected, got, wanted)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (b.dtype, b.shape) == (c.dtype, c.shape)
        assert b.sharding.is_equivalent_to(c.sharding, b.ndim)


def test_tensors_are_read_one_at_a_time(tmp_path, monkeypatch):
    values = weights("llada")
    source = save(tmp_path / "in", "llada", values)
    read_sizes = []
    real = jax.make_array_from_callback

    def watched(shape, where, callback):
        read_sizes.append(math.prod(shape))
        return real(shape, where, callback)

    monkeypatch.setattr(jax, "make_array_from_callback", watched)
    read(source, "llada")
    assert sorted(read_sizes) == sorted(v.size for v in values.values())


@FAMILY
def test_family_and_sizes_come_from_the_checkpoint(tmp_path, family):
    source = save(tmp_path / "in", family, weights(family))
    got = huggingface.adopt_sizes(ModelConfig(weights=str(source), dtype="bfloat16", ff=7))
    assert got == dataclasses.replace(
        model_of(source, family), weights=str(source), dtype="bfloat16", scan_unroll="auto"
    )
    assert (got.family, got.width, got.ff, got.kv_heads) == (family, D, F, KV[family])
    assert (got.head_width, got.qk_norm) == (DH[family], family == "a2d_qwen3")
    # What a preset of another family has set does not stay.
    preset = ModelConfig(weights=str(source), head_dim=8, qk_norm=True, qkv_bias=True, tied=True)
    assert dataclasses.replace(huggingface.adopt_sizes(preset), dtype="bfloat16") == got
    assert huggingface.adopt_sizes(ModelConfig(ff=7)) == ModelConfig(ff=7)
    (source / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        UserError, match=r"model_type 'bert' belongs to no known family; .* llada, D"
    ):
        huggingface.adopt_sizes(ModelConfig(weights=str(source)))


def test_tokenizer_code_and_config_are_copied(tmp_path):
    source = save(tmp_path / "in", "llada", weights("llada"), architectures=["LLaDAModelLM"])
    (source / "tokenizer.json").write_text("{}")
    (source / "modeling_llada.py").write_text("pass")
    params, model = read(source, "llada")
    huggingface.write(tmp_path / "out", params, model, lineage={}, source=source, dtype="bfloat16")
    for name in ("tokenizer.json", "modeling_llada.py"):
        assert (tmp_path / "out" / name).read_text() == (source / name).read_text()
    before, after = (
        json.loads((path / "config.json").read_text()) for path in (source, tmp_path / "out")
    )
    assert after == before | {"torch_dtype": "bfloat16"}
    again, _ = read(tmp_path / "out", "llada")
    np.testing.assert_allclose(again["embed"], params["embed"], rtol=2**-8)


def test_the_dtype_of_an_export_has_the_key_of_its_source(tmp_path):
    """transformers 5 writes another key than older versions, and a base of RoPE below another."""
    source = save(tmp_path / "in", "dream", weights("dream"), dtype="float32")
    values = json.loads((source / "config.json").read_text())
    values["rope_parameters"] = {"rope_theta": values.pop("rope_theta"), "rope_type": "default"}
    (source / "config.json").write_text(json.dumps(values))
    params, model = read(source, "dream")
    huggingface.write(tmp_path / "out", params, model, lineage={}, source=source, dtype="bfloat16")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == values | {"dtype": "bfloat16"}
    assert model_of(tmp_path / "out", "dream") == model


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": 1}}])
def test_an_index_without_file_names_is_refused(tmp_path, index):
    source = save(tmp_path / "in", "llada", weights("llada"))
    (source / huggingface.INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match="weight_map must be an object of file names"):
        read(source, "llada")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_permissions_follow_the_umask(tmp_path, mask, mode):
    source = save(tmp_path / "in", "llada", weights("llada"))
    (source / "tokenizer.json").write_text("{}")
    for path in source.iterdir():
        path.chmod(0o600)
    params, model = read(source, "llada")
    before = os.umask(mask)
    try:
        huggingface.write(tmp_path / "out", params, model, lineage={}, source=source)
    finally:
        os.umask(before)
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert len(files) == 5  # weights, index, config, lineage, tokenizer
    assert set(files.values()) == {mode}


def test_fingerprint_changes_with_the_weights(tmp_path):
    values = weights("llada")
    one = huggingface.fingerprint(save(tmp_path / "one", "llada", values))
    assert one == huggingface.fingerprint(save(tmp_path / "two", "llada", values))
    values["model.transformer.ln_f.weight"][0] += 1
    assert one != huggingface.fingerprint(save(tmp_path / "three", "llada", values))


def test_checkpoint_of_another_family_is_refused(tmp_path):
    source = save(tmp_path / "in", "llada", weights("llada"))
    with pytest.raises(
        UserError, match="no checkpoint of family 'dream': its model_type is 'llada'"
    ):
        published_config.read_model_config(source, "dream")
    scaled = save(tmp_path / "scaled", "llada", weights("llada"), scale_logits=True)
    with pytest.raises(UserError, match="scale_logits is True"):
        published_config.read_model_config(scaled, "llada")


def test_all_mismatches_are_listed(tmp_path):
    values = weights("llada")
    values["model.transformer.more.weight"] = np.zeros(3, np.float32)
    values["model.transformer.ln_f.weight"] = np.zeros(3, np.float32)
    del values["model.transformer.blocks.1.up_proj.weight"]
    source = save(tmp_path / "in", "llada", values)
    with pytest.raises(UserError) as error:
        read(source, "llada")
    text = str(error.value)
    assert "blocks.1.up_proj.weight is missing" in text
    assert "more.weight is unexpected" in text
    assert r"ln_f.weight is (3,), not (16,)" in text
    assert "\n" not in text


def test_broken_checkpoints_raise_clear_errors(tmp_path):
    source = save(tmp_path / "in", "llada", weights("llada"))
    shard = source / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cannot read .*model-00002.*cut short"):
        read(source, "llada")
    shard.unlink()
    with pytest.raises(
        UserError, match=r"names model-00002-of-00003.safetensors, which is missing"
    ):
        read(source, "llada")
    (source / huggingface.INDEX).unlink()
    with pytest.raises(UserError, match="has neither"):
        read(source, "llada")
    (source / "config.json").unlink()
    with pytest.raises(UserError, match=r"cannot read .*config.json"):
        read(source, "llada")


def test_failed_write_leaves_no_directory(tmp_path, monkeypatch):
    params, model = read(save(tmp_path / "in", "llada", weights("llada")), "llada")
    with pytest.raises(UserError, match="exists already"):
        huggingface.write(tmp_path / "in", params, model, lineage={})

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(huggingface.tensor_files, "save", full)
    with pytest.raises(OSError, match="no space left"):
        huggingface.write(tmp_path / "out", params, model, lineage={})
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_source_must_be_a_directory_or_a_hub_name(tmp_path):
    assert huggingface.locate(str(tmp_path)) == tmp_path
    with pytest.raises(UserError, match="is neither a directory nor a hub name"):
        huggingface.locate(str(tmp_path / "nothing"))


@pytest.mark.parametrize("source", ["nobody/nothing@", "nothing@main", "a/b/c@main"])
def test_revision_needs_a_hub_name(source):
    with pytest.raises(UserError, match="is neither a directory nor a hub name"):
        huggingface.locate(source)


def test_revision_is_downloaded(tmp_path, monkeypatch):
    downloads = []

    def download(name, *, revision, allow_patterns):
        downloads.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert huggingface.locate("owner/name@v1.5") == tmp_path
    huggingface.locate("owner/name")
    assert downloads == [("owner/name", "v1.5"), ("owner/name", None)]
    local = tmp_path / "weights@home"
    local.mkdir()
    assert huggingface.locate(str(local)) == local


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_with_the_tensors_name(tmp_path, bad):
    values = weights("llada")
    name = "model.transformer.blocks.1.up_proj.weight"
    values[name][3, 2:4] = bad
    source = save(tmp_path / "in", "llada", values)
    with pytest.raises(UserError, match=f"2 of the {F * D} numbers of {name} are NaN or infinite"):
        read(source, "llada")


def with_index(source, change):
    path = source / huggingface.INDEX
    content = json.loads(path.read_text())
    change(content["weight_map"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/etc/a.safetensors", "b/a.safetensors", "", "a", "a\0.safetensors"],
)
def test_an_index_names_only_files_of_weights_beside_it(tmp_path, name):
    source = save(tmp_path / "in", "llada", weights("llada"))
    with_index(source, lambda files: files.update({next(iter(files)): name}))
    with pytest.raises(UserError, match=r"index.json names .* it must name files"):
        read(source, "llada")


def test_a_tensor_of_the_index_that_no_file_has_is_named(tmp_path):
    source = save(tmp_path / "in", "llada", weights("llada"))
    with_index(source, lambda files: files.update(dict.fromkeys("ab", next(iter(files.values())))))
    with pytest.raises(UserError, match="names the tensor a and 1 more, which no file has"):
        read(source, "llada")


@FAMILY
@pytest.mark.parametrize("field", ["layers", "width", "vocab", "heads", "kv_heads", "ff"])
def test_sizes_are_compared_with_the_weights_before_a_network_is_built(tmp_path, family, field):
    source = save(tmp_path / "in", family, weights(family))
    key = FAMILIES[family].settings[field]
    given = ModelConfig(weights=str(source), family=family)
    assert huggingface.adopt_sizes(given).layers == LAYERS
    wrong = {key: 2 * CONFIGS[family][key]}
    (source / "config.json").write_text(json.dumps(CONFIGS[family] | wrong))
    if family != "a2d_qwen3" and field == "heads":
        # Twice as many heads of half the width have the same kernels of q, and others of k.
        assert KV[family] * D // (2 * HEADS) != KV[family] * DH[family]
    with pytest.raises(UserError, match=r"config\.json"):
        huggingface.adopt_sizes(given)


@pytest.mark.parametrize("dtype", ["int8", "bool", "int64", ml_dtypes.float8_e4m3fn])
def test_quantised_numbers_are_not_read_as_weights(tmp_path, dtype):
    source = save(tmp_path / "in", "llada", weights("llada", dtype))
    with pytest.raises(UserError, match=r"has numbers of type .*; and \d+ more\.") as error:
        read(source, "llada")
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize("function", [huggingface.fingerprint, huggingface.quick_fingerprint])
def test_a_file_of_weights_that_cannot_be_read_is_named(tmp_path, function):
    (tmp_path / "a.safetensors").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"cannot read .*a\.safetensors"):
        function(tmp_path)
