"""The presets of block diffusion models, at a tiny size, from a checkpoint to an export."""

import json
import pathlib
import sys

import pytest
from made_weights import PAD, TOKENIZER

from diffpo_jax.arrays import rng
from diffpo_jax.config import ModelConfig, ThresholdConfig, convert
from diffpo_jax.data import tokenizers
from diffpo_jax.models import families, huggingface
from diffpo_jax.run import experiment, export, setup
from diffpo_jax.system.errors import UserError

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from configs import jsonl

SIZES = {"width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ff": 32, "vocab": len(TOKENIZER) + 3}
LENGTH, PROMPT = 16, 16
# (positions of a block, positions that are written at a time), for the published 32 and 8
SMALL = {"qwen3_0_6b_bd": (8, 8), "sdar_1_7b": (4, 4), "sdar_8b": (4, 4), "fast_dllm_v2_7b": (8, 2)}
PRESETS = pytest.mark.parametrize("preset", SMALL)


def reward(example, completion):
    """Something that random weights get more or less of."""
    return min(1.0, completion.count("e") / 20)


def config_of(preset, root, **fields):
    values = jsonl.get_config(preset)
    block, written = SMALL[preset.split(",")[0]]
    mask = values.tokenizer.mask
    small = {f"model.{name}": size for name, size in SIZES.items()} | {
        "model.attention_block": block,
        "model.head_dim": 6 if values.model.head_dim else None,
        "model.dtype": "float32",
        "model.check_weights": "off",
        "model.weights": str(root / "weights"),
        "tokenizer.name": str(root / "tokenizer"),
        "tokenizer.kind": "PreTrainedTokenizerFast",
        "tokenizer.mask_id": len(TOKENIZER),
        "tokenizer.pad": PAD,
        "tokenizer.ends": ("<end>",),
        "tokenizer.closing": None,
        "task.prompt.chat": False,
        "task.prompt.template": "{question}",
        "task.prompt.answer": "text",
        "task.train_file": str(root / "rows.jsonl"),
        "task.test_file": str(root / "rows.jsonl"),
        "task.reward": "test_block_presets:reward",
        "mesh.fsdp": 1,
        "sampler.block_length": written,
        "sampler.prompt_length": PROMPT,
        "sampler.length": LENGTH,
        "threshold.gamma": 8.0,  # several tokens a call
        "rl.steps": 1,
        "rl.prompts": 2,
        "rl.group": 4,
        "rl.micro_batch": 8,
        "rl.inner_updates": 1,
        "rl.likelihood.anchors": "all",
        "rl.likelihood.prompt_masking": 0.0,
        "evaluation.gammas": (1.0,),
        "evaluation.batch": 4,
        "evaluation.examples": 4,
        "evaluation.validation_examples": 4,
    }
    assert mask not in TOKENIZER.get_vocab()  # it is added, with the id that the preset says
    values.update_from_flattened_dict(small | fields)
    return convert.from_config_dict(values)


def make(root, preset):
    """A random checkpoint in the published form, its tokenizer, and rows."""
    words = [token for token in TOKENIZER.get_vocab() if token.isalpha()]
    rows = [{"question": " ".join(words[n : n + 4]), "answer": words[n]} for n in range(24)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    TOKENIZER.save_pretrained(root / "tokenizer")
    model = config_of(preset, root).model
    policy = families.make_policy(
        model, ThresholdConfig(), vocab=model.vocab, mask_id=len(TOKENIZER), platform="cpu"
    )
    params = policy.init(rng.key_for(3, "init"))
    huggingface.write(root / "weights", params["denoiser"], model, lineage={})
    return root


@pytest.mark.slow
@PRESETS
def test_a_step_of_rl_from_a_checkpoint_and_an_export(tmp_path, preset):
    root = make(tmp_path, preset)
    words = preset + (",lora" if preset == "sdar_8b" else "")
    config = config_of(words, root)
    experiment.run(config, str(root / "run"))
    lines = map(json.loads, (root / "run" / "metrics.jsonl").read_text().splitlines())
    step = next(row for row in lines if row["stage"] == "rl" and "reward" in row)
    block, written = SMALL[preset]
    # The scorer of all calls gives what the sampler with its cache recorded.
    assert step["kl/token"] == pytest.approx(0, abs=1e-9)
    assert step["weights/mean"] == pytest.approx(1, abs=1e-5)
    assert step[f"grad_norm/{'adapter' if config.lora.rank else 'denoiser'}"] > 0
    # A call writes at most `written` tokens; texts may end early.
    assert step["completion_length"] / written <= step["nfe"] < step["completion_length"]
    out = root / "out"
    export.export(str(root / "run"), str(out), model="trained")
    again = huggingface.adopt_sizes(ModelConfig(weights=str(out)))
    assert (again.family, again.attention_block) == (config.model.family, block)
    assert again.attention_origin == config.model.attention_origin


@PRESETS
def test_settings_that_do_not_go_with_the_checkpoint_are_refused_in_one_line(tmp_path, preset):
    root, block = make(tmp_path, preset), SMALL[preset][0]
    in_file = f"has (attention_block|block_size|bd_size)={block}: set it to {block}"
    wrong = [
        ({"model.attention_block": 2 * block}, in_file),
        ({"sampler.block_length": 3}, "sampler.block_length"),
        ({"sampler.cache": "dual"}, "which is exact"),
        ({"tokenizer.mask_id": 2}, "tokenizer.mask_id=2, but the mask token"),
    ]
    for fields, message in wrong:
        with pytest.raises(UserError, match=message) as caught:
            config = setup.with_weights(config_of(preset, root, **fields))
            tokenizers.make_tokenizer(config.tokenizer)
        assert "\n" not in str(caught.value)
