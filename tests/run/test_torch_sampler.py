"""The sampler of exports, in PyTorch, against ours: equal tokens, equal calls, prompt by prompt."""

import dataclasses
import json
import pathlib
import string
import sys
import types

import exported
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.arrays.types import Prompts
from diffpo_jax.config import Config, ModelConfig, convert
from diffpo_jax.data import tokenizers
from diffpo_jax.diffusion import sampler as ours
from diffpo_jax.evaluation import threshold_choice
from diffpo_jax.models import huggingface
from diffpo_jax.models.families import make_policy
from diffpo_jax.run import sampler_files, torch_model

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # of networks this small, more wait for each other
transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "models"))
import test_huggingface as made  # noqa: E402
import test_qwen as qwen  # noqa: E402

LENGTH, ROWS, PROMPT, MASK, END = 16, 6, 5, 1, 2
PROMPTS = reference.some_prompts(1, ROWS, PROMPT, made.V)
KEYS = jax.random.split(jax.random.key(0), ROWS)
# rule, ranking, its number, and fields of `config.sampler`
RULES = {
    "entropy_bounded": ("entropy", {"threshold.gamma": 5.0}),
    "entropy_sum": ("margin", {"threshold.gamma": 7.0}),
    "top_k": ("drawn", {"sampler.steps": 16}),
    "confidence": ("confidence", {"sampler.confidence": 0.12, "sampler.fallback": "leftmost"}),
}
ENDS = {"sampler.stop_at_end": True, "sampler.suppress_end": "while_open"}
TINY = ModelConfig(
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    ff=32,
    positions=32,
    qkv_bias=True,
    qk_norm=True,
    scan_unroll=1,
    attention="plain",
)


@pytest.fixture(autouse=True)
def own_module_cache(tmp_path, monkeypatch):
    """transformers copies the code that it runs; here to a directory of the test."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.setattr(sys, "path", [*sys.path])


def configure(model, **fields):
    values = convert.as_config_dict(Config())
    usual = {"mode": "model", "sampler.prompt_length": PROMPT, "sampler.length": LENGTH}
    usual |= {"tokenizer.alphabet": string.ascii_lowercase[: made.V - 3], "model.positions": None}
    usual |= {"sampler.vocabulary_chunk": None}
    values.update_from_flattened_dict(usual | fields)
    return dataclasses.replace(convert.from_config_dict(values), model=model)


class Published:
    """A published network in plain PyTorch, row by row, with the calls of its class."""

    def __init__(self, family, values):
        self.family, self.values = family, values

    def parameters(self):
        return iter([torch.zeros(1)])

    def __call__(self, tokens, attention_mask, use_cache, position_ids=None, **options):
        mask = attention_mask
        if self.family == "dream":
            assert mask.shape == (len(tokens), 1, tokens.shape[1], tokens.shape[1])
            mask = (mask[:, 0, 0] == 0).long()
            np.testing.assert_array_equal(position_ids, (mask.cumsum(1) - 1).clamp(min=0))
        rows = [
            made.torch_pass(self.family, self.values, t.numpy(), m.numpy().astype(bool))
            for t, m in zip(tokens, mask)
        ]
        hidden, logits = (torch.from_numpy(np.stack(x)) for x in zip(*rows))
        hidden = (hidden,) if options.get("output_hidden_states") else None
        return types.SimpleNamespace(logits=logits, hidden_states=hidden)


def published(directory, family):
    """A random checkpoint that draws an end of text now and then: its policy, and the network."""
    values = made.weights(family)
    values[f"{made.NAMES[family][-1]}.weight"][END] *= 2.5
    denoiser, model = made.read(made.save(directory / family, family, values), family)
    return denoiser, model, Published(family, values)


def left_to_right(directory, family):
    """transformers' own network, under a mask through which every token sees all."""
    source = qwen.save(directory / family, family, tied=False, shards=False)
    denoiser, model = qwen.read(source, family)
    return denoiser, model, transformers.Qwen2ForCausalLM.from_pretrained(source)


def tiny(directory, family, model=TINY):
    """A random network of the family "tiny", exported and loaded by transformers."""
    policy = made_policy(model)
    denoiser = reference.random_params(policy, 5)["denoiser"]
    huggingface.write(directory / "tiny", denoiser, model, lineage={}, also=torch_model.write_code)
    loaded = transformers.AutoModel.from_pretrained(directory / "tiny", trust_remote_code=True)
    return denoiser, model, loaded


def made_policy(model, config=None):
    config = config or configure(model)
    return make_policy(
        model,
        config.threshold,
        state=config.state_head,
        places=config.largest_block,
        vocab=made.V,
        mask_id=MASK,
        platform="cpu",
    )


NETWORKS = {"llada": published, "dream": published, "open_dcoder": left_to_right, "tiny": tiny}
NETWORK = pytest.mark.parametrize("family", NETWORKS)


def random_heads(policy, seed=2):
    """Heads with random weights, so that what they decide depends on all that they read."""
    rng = np.random.default_rng(seed)
    key = jax.random.key(0)
    shapes = {
        "threshold": jax.eval_shape(policy.init, key)["threshold"],
        "state_head": jax.eval_shape(policy.init_state_head, key),
    }
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


def prepare(directory, family, *given, prompts=PROMPTS, **fields):
    """A run's sampler in both forms: run(dial) of ours, run(**options) of the export.

    `given` is a tiny model of another shape; prompts of the export are `PROMPTS` in any case.
    """
    denoiser, model, network = NETWORKS[family](directory, family, *given)
    config = configure(model, **fields)
    policy = made_policy(model, config)
    params = {"denoiser": denoiser, **random_heads(policy)}
    out = directory / "out"
    out.mkdir()
    sampler_files.write(out, config, "trained", params)
    ends = tokenizers.end_ids(tokenizers.make_tokenizer(config.tokenizer))
    settings = ours.make_settings(config.decoder, config.evaluation.temperature, ends)
    kind, number = threshold_choice.threshold_in_use(config)
    program = jax.jit(ours.make_generate(policy, settings, threshold=kind))

    def run_ours(dial=number):
        return jax.device_get(program(params, prompts, jnp.float32(dial), KEYS))

    def run_theirs(**options):
        tokens, mask = (torch.from_numpy(np.array(x)).long() for x in PROMPTS)
        return exported.generate(out)(network, tokens, mask, **options)

    return run_ours, run_theirs


def compare(rollout, out):
    np.testing.assert_array_equal(out.sequences[:, :PROMPT], PROMPTS.tokens)
    np.testing.assert_array_equal(out.sequences[:, PROMPT:], rollout.tokens)
    np.testing.assert_array_equal(out.calls, rollout.nfe)
    np.testing.assert_array_equal(out.commit_call, rollout.commit_call)
    np.testing.assert_allclose(out.gamma, rollout.gamma, rtol=1e-4)


@pytest.mark.parametrize("family", ["llada", "dream", "tiny"])
@pytest.mark.parametrize("size", [1, 8, 16])
@pytest.mark.parametrize("rule", RULES)
def test_rules_with_a_fixed_number(tmp_path, family, rule, size):
    ranking, fields = RULES[rule]
    fields |= {"sampler.rule": rule, "sampler.ranking": ranking, "sampler.block_length": size}
    run_ours, run_theirs = prepare(tmp_path, family, **fields, **(ENDS if size == 8 else {}))
    rollout, out = run_ours(), run_theirs()
    compare(rollout, out)
    assert out.calls.max() <= LENGTH and (size == 1 or out.calls.min() < LENGTH or rule == "top_k")


@NETWORK
def test_a_learned_gamma_at_three_scales(tmp_path, family):
    fields = {"mode": "sampler", "sampler.block_length": 8, "threshold.gamma": 4.0}
    run_ours, run_theirs = prepare(tmp_path, family, **fields)
    calls = []
    for scale in (0.5, 1.0, 2.0):
        rollout, out = run_ours(scale), run_theirs(scale=scale)
        compare(rollout, out)
        assert len(set(out.gamma.tolist())) > 3  # one for each prompt, of which some are equal
        calls.append(out.calls.sum())
    assert calls[0] > calls[2]
    fixed = run_theirs(gamma=torch.tensor([0.1, 0.1, 0.1, 100.0, 100.0, 100.0]))
    assert fixed.calls[:3].min() > fixed.calls[3:].max() == 2


@NETWORK
@pytest.mark.parametrize("size", [1, 8, 16])
def test_the_head_by_state_at_three_prices(tmp_path, family, size):
    fields = {"mode": "sampler", "sampler.rule": "state", "sampler.block_length": size}
    run_ours, run_theirs = prepare(tmp_path, family, **fields, **(ENDS if size == 8 else {}))
    calls = []
    for price in (0.0, 0.3, 1.0, 6.0):
        rollout, out = run_ours(price), run_theirs(price=price)
        compare(rollout, out)
        calls.append(out.calls.tolist())
    compare(run_ours(), run_theirs())
    if size == 16:
        assert calls[0] == [LENGTH] * ROWS != calls[3]
        assert run_theirs(price=torch.linspace(0, 6, ROWS)).calls[0] == LENGTH
    if size == 8:
        assert min(map(min, calls)) < LENGTH


@pytest.mark.parametrize("parts", [{"hidden": False}, {"pairs": 0}])
def test_the_head_by_state_without_a_part(tmp_path, parts):
    fields = {f"state_head.{name}": value for name, value in parts.items()}
    fields |= {"mode": "sampler", "sampler.rule": "state"}
    run_ours, run_theirs = prepare(tmp_path, "tiny", **fields)
    compare(run_ours(), run_theirs())


@pytest.mark.parametrize("kind", ["none", "never", "while_open", "last"])
def test_texts_that_end_early(tmp_path, kind):
    fields = {"sampler.stop_at_end": True, "sampler.suppress_end": kind, "threshold.gamma": 1.0}
    run_ours, run_theirs = prepare(tmp_path, "llada", **fields)
    rollout, out = run_ours(), run_theirs()
    compare(rollout, out)
    filled = out.commit_call > out.calls[:, None]
    assert filled.any() == (kind != "never") and (out.sequences[:, PROMPT:][filled] == END).all()


@pytest.mark.parametrize("rule", ["entropy_bounded", "state"])
def test_attention_by_blocks(tmp_path, rule):
    """Ours keeps finished blocks in an exact cache, and pads prompts to whole blocks."""
    model = dataclasses.replace(TINY, attention_block=4)
    fields = {"model.attention_block": 4, "sampler.block_length": 4, "sampler.cache": "block"}
    fields |= {"mode": "sampler", "sampler.rule": rule, "sampler.prompt_length": 8}
    padded = (jnp.pad(x, ((0, 0), (8 - PROMPT, 0))) for x in PROMPTS)
    prompts = Prompts(*padded)
    run_ours, run_theirs = prepare(tmp_path, "tiny", model, prompts=prompts, **fields)
    compare(run_ours(), run_theirs())


def test_a_cap_on_calls(tmp_path):
    fields = {"sampler.max_calls": 3, "threshold.gamma": 0.0, "sampler.block_length": 8}
    run_ours, run_theirs = prepare(tmp_path, "tiny", **fields)
    compare(run_ours(), out := run_theirs())
    assert (out.calls == 3).all()


def test_other_shapes_of_the_tiny_network(tmp_path):
    for number, changes in enumerate(
        [{"tied": True, "positions": None, "qkv_bias": False}, {"head_dim": 6, "qk_norm": False},
         {"attention_block": 4}, {"attention_block": 3, "attention_origin": "prompt"}]
    ):  # fmt: skip
        model = dataclasses.replace(TINY, **changes)
        (tmp_path / str(number)).mkdir()
        denoiser, _, network = tiny(tmp_path / str(number), "tiny", model)
        policy, params = made_policy(model), {"denoiser": denoiser}
        tokens = jnp.concatenate([PROMPTS.tokens, PROMPTS.tokens], axis=1)
        mask = jnp.concatenate([PROMPTS.mask, jnp.ones_like(PROMPTS.mask)], axis=1)
        hidden = policy.hidden(params, tokens, mask)
        given = (torch.from_numpy(np.array(x)).long() for x in (tokens, mask))
        with torch.no_grad():
            out = network(*given, output_hidden_states=True)
        seen = np.asarray(mask)
        theirs, logits = out.hidden_states[0].numpy(), out.logits.numpy()
        np.testing.assert_allclose(theirs[seen], np.asarray(hidden)[seen], atol=2e-5)
        expected = np.asarray(policy.logits(params, hidden))
        np.testing.assert_allclose(logits[seen], expected[seen], atol=1e-4)


def test_generate_of_transformers(tmp_path):
    """By `custom_generate`, and as the model's own `generate`, which transformers makes of it."""
    _, _, network = tiny(tmp_path, "tiny")
    out, config = tmp_path / "tiny", configure(TINY, **{"threshold.gamma": 1.0})
    sampler_files.write(out, config, "trained", {})
    torch_model.write_tokenizer(out, config, copied=False)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(out)
    batch = tokenizer(["abc", "a", "dcba"], return_tensors="pt", padding=True)
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]]
    expected = exported.generate(out)(network, **batch)
    custom = {"custom_generate": str(out), "trust_remote_code": True, "revision": "main"}
    for loaded in (network, transformers.AutoModelForMaskedLM.from_pretrained(out, **TRUST)):
        first = loaded.generate(**batch, **custom)
        second = loaded.generate(
            batch["input_ids"], attention_mask=batch["attention_mask"], **custom
        )
        for given in (first, second):
            assert torch.equal(given.sequences, expected.sequences)
            assert torch.equal(given.calls, expected.calls)
    own = loaded.generate(batch["input_ids"], batch["attention_mask"], gamma=100.0)
    assert own.calls.tolist() == [1, 1, 1]
    config = transformers.GenerationConfig(max_new_tokens=7)
    shorter = network.generate(**batch, generation_config=config, **custom)
    assert shorter.sequences.shape == (3, 4 + 7)
    assert tokenizer.decode(own.sequences[2, :4]) == "dcba"


TRUST = {"trust_remote_code": True}


def test_draws_follow_the_tempered_distribution(tmp_path):
    logits = torch.tensor([1.0, 9.0, 0.0, 2.0, -1.0, 0.5])  # the second is the mask

    class Constant:
        def __call__(self, tokens, **options):
            return types.SimpleNamespace(logits=logits.expand(*tokens.shape, 6).clone())

    alphabet = {"tokenizer.alphabet": "abc", "evaluation.temperature": 0.7}
    sampler_files.write(tmp_path, configure(TINY, **alphabet), "trained", {})
    ids, generate = torch.full((2_000, 1), 3), exported.generate(tmp_path)
    draw = torch.Generator().manual_seed(0)
    out = generate(Constant(), ids, gamma=1e9, generator=draw)
    share = torch.bincount(out.sequences[:, 1:].flatten(), minlength=6) / (2_000 * LENGTH)
    wanted = torch.where(torch.arange(6) == 1, -torch.inf, logits / 0.7).softmax(0)
    np.testing.assert_allclose(share, wanted, atol=0.01)
    assert (generate(Constant(), ids, temperature=0.0).sequences[:, 1:] == 3).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.0}, "rule 'state' has no gamma"),
        ({"scale": 2.0}, "factor on a learned gamma"),
        ({"max_new_tokens": 12}, "multiple of the block length, 8"),
        ({"max_new_token": 8}, "does not read the arguments max_new_token"),
        ({"sampler": "/nowhere"}, "nowhere"),
        ({"attention_mask": torch.tensor([[1, 1, 0]])}, "padded on the left"),
    ],
)
def test_wrong_arguments(tmp_path, options, message):
    fields = {"mode": "sampler", "sampler.rule": "state", "sampler.block_length": 8}
    config = configure(TINY, **fields)
    heads = random_heads(made_policy(TINY, config))
    sampler_files.write(tmp_path, config, "trained", heads)
    given = {"input_ids": torch.tensor([[3, 4, 5]])} | options
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        exported.generate(tmp_path)(None, **given)


@pytest.mark.parametrize(("key", "value"), [("rule", "random"), ("ranking", "lowest")])
def test_settings_that_the_code_does_not_know(tmp_path, key, value):
    _, _, network = tiny(tmp_path, "tiny")
    sampler_files.write(tmp_path / "tiny", configure(TINY), "trained", {})
    path = tmp_path / "tiny" / sampler_files.SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=f"unknown {key}: '{value}'"):
        exported.generate(tmp_path / "tiny")(network, torch.tensor([[3]]))


def test_a_price_without_a_head(tmp_path):
    sampler_files.write(tmp_path, configure(TINY), "trained", {})
    with pytest.raises(ValueError, match="rule 'entropy_bounded' has no price"):
        exported.generate(tmp_path)(None, torch.tensor([[3]]), price=1.0)
