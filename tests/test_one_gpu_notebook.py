"""docs/one_gpu.ipynb runs from top to bottom with a tiny checkpoint in the published form."""

import json
import pathlib
import subprocess
import sys

import commands
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import transformers

from diffpo_jax.distributed import join_flags

ROOT = pathlib.Path(__file__).parent.parent
PATH = ROOT / "docs/one_gpu.ipynb"
CELLS = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
V, D, F, LAYERS, HEADS, KV, DH = 320, 16, 16, 1, 2, 1, 8


def save_tokenizer(directory):
    """Bytes and the special tokens of Qwen's; the mask token would get the next id, 259."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in TOKENS])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    fast.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    fast.save_pretrained(directory)
    return len(fast)


def save_model(directory):
    """A random checkpoint with the names and the config.json of a conversion of Qwen3."""
    rng = np.random.default_rng(0)
    block = "model.layers.0."
    shapes = {"model.embed_tokens": (V, D), "model.norm": (D,)}
    shapes |= {f"{block}self_attn.{name}_proj": (KV * DH, D) for name in "kv"}
    shapes |= {f"{block}self_attn.q_proj": (HEADS * DH, D), f"{block}self_attn.o_proj": (D, 16)}
    shapes |= {f"{block}mlp.{name}_proj": (F, D) for name in ("gate", "up", "down")}
    shapes |= {f"{block}{name}_layernorm": (D,) for name in ("input", "post_attention")}
    shapes |= {f"{block}self_attn.{name}_norm": (DH,) for name in "qk"}
    values = {
        f"{name}.weight": (rng.normal(size=shape) / 4 + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }
    safetensors.numpy.save_file(values, directory / "model.safetensors")
    config = {
        "model_type": "a2d-qwen3",
        "hidden_size": D,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "intermediate_size": F,
        "head_dim": DH,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "vocab_size": V,
        "tie_word_embeddings": True,
        "attention_bias": False,
    }
    (directory / "config.json").write_text(json.dumps(config))


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """What the first cell reads, for a model and questions made here."""
    model = tmp_path / "model"
    model.mkdir()
    mask = save_tokenizer(model)
    save_model(model)
    rows = [{"question": f"{n} and 1?", "answer": f"It is.\n#### {n + 1}"} for n in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {
        "tokenizer.mask_id": mask,
        "task.train_file": tmp_path / "rows.jsonl",
        "task.test_file": tmp_path / "rows.jsonl",
        "task.validation_examples": 4,
        "task.prompt.template": "{question}",
        "sampler.prompt_length": 32,
        "sampler.length": 32,
        "rl.group": 2,
        "rl.micro_batch": 2,
        "rl.inner_updates": 1,
        "lora.rank": 2,
        "evaluation.batch": 4,
        "evaluation.every": "None",
        "evaluation.gammas": "(0.1,100.0)",
    }
    given = {
        "SOURCE": ROOT,
        "WORK": tmp_path / "work",
        "MODEL": model,
        "QUESTIONS": 4,
        "STEPS": 1,
        "EXTRA": "",
        "FLAGS": " ".join(f"--config.{name}={value}" for name, value in flags.items()),
    }
    for name, value in given.items():
        monkeypatch.setenv(f"ONE_GPU_{name}", str(value))
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # the notebook keeps what is set
    monkeypatch.chdir(ROOT)
    return tmp_path / "work"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_notebook_runs(settings, monkeypatch):
    other = subprocess.run

    def here(words, **how):
        if words[0] != sys.executable:  # the commands' own questions to git
            return other(words, **how)
        assert words[1] == "-m" and how == {"check": True}
        # Its weights are random, which the commands would notice and refuse.
        unchecked = ["--config.model.check_weights=off"] * ("--config=" in " ".join(words))
        status = commands.run(words[2].removeprefix("diffpo_jax."), *words[3:], *unchecked)
        assert status == 0
        return status

    monkeypatch.setattr(subprocess, "run", here)
    monkeypatch.setattr(join_flags, "join", lambda: None)  # there are no other processes
    monkeypatch.setattr(sys, "path", [*sys.path])
    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    for number, cell in enumerate(CODE, 1):
        exec(compile("".join(cell["source"]), f"{PATH.name}, cell {number}", "exec"), names)
    assert len(names["result"]["points"]) == 2
    lines = plt.gca().get_lines()
    assert [line.get_label() for line in lines] == ["base", "trained"]
    assert all(len(line.get_xdata()) == 2 for line in lines)
    plt.close("all")
    assert (settings / "run/report/index.html").exists()
    assert (settings / "adapter/adapter_config.json").exists()


def test_there_are_no_outputs_that_were_not_measured():
    for cell in CODE:
        assert cell["outputs"] == [] and cell["execution_count"] is None
    text = "".join("".join(cell["source"]) for cell in CELLS)
    assert "**Not proven:**" in text
