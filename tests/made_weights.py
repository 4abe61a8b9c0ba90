"""Tiny networks of the shape of Qwen3 that learn a few sentences, each in a way of its own."""

import functools
import json

import jax
import jax.numpy as jnp
import optax
import tokenizers as hf
import transformers
from tokenizers import models, pre_tokenizers

from diffpo_jax.config import ModelConfig, ThresholdConfig
from diffpo_jax.evaluation import weight_check
from diffpo_jax.models import huggingface
from diffpo_jax.models.families import make_policy

SPECIAL = PAD, MASK, END, SPARE, UNKNOWN = "<pad>", "<mask>", "<end>", "<other_mask>", "<unknown>"
SENTENCES = weight_check.SENTENCES
MODEL = ModelConfig(
    family="a2d_qwen3",
    width=32,
    layers=2,
    heads=2,
    kv_heads=2,
    head_dim=16,
    ff=64,
    qk_norm=True,
    tied=True,
    rope_theta=10_000.0,
    embedding_std=0.3,
    attention="plain",
)


def make_tokenizer(texts):
    """A token for each word."""
    split = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *words])}
    backend = hf.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = split
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        mask_token=MASK,
        eos_token=END,
        unk_token=UNKNOWN,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [SPARE]})
    return tokenizer


TOKENIZER = make_tokenizer([*SENTENCES, weight_check.OPENING])
ROWS = 72  # of the embedding: some more than there are tokens, as in published checkpoints


def make(model=MODEL):
    sizes = {"vocab": ROWS, "tokens": len(TOKENIZER)}
    return make_policy(model, ThresholdConfig(hidden=4), **sizes, mask_id=1, platform="cpu")


@functools.cache
def trainer():
    """One program for all kinds of training: steps(params, hides, causal, follows, theta)."""
    policy = make()
    rows = weight_check.Rows(*map(jnp.asarray, weight_check.ordinary_rows(TOKENIZER)))
    optimizer = optax.adam(3e-3)
    inner = rows.mask & (jnp.cumsum(rows.mask, axis=1) > 1)

    def loss(params, key, hides, causal, follows, theta):
        rate, drawn = jax.random.split(key)
        share = jax.random.uniform(rate, (len(inner), 1), minval=0.1, maxval=0.5)
        hidden = inner & (jax.random.uniform(drawn, inner.shape) < share)
        seen = jnp.where(hidden & hides, 1, rows.tokens)
        out = weight_check.read(policy, params, seen, rows.tokens, rows.mask, causal, theta)
        target = jnp.where(hides, hidden, inner)
        following = jnp.roll(out.following, 1, axis=1)
        return -jnp.sum(jnp.where(follows, following, out.own) * target) / jnp.sum(target)

    @jax.jit
    def steps(params, *how):
        def step(carry, key):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, key, *how), state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(1), 400)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return params

    return steps


@functools.cache
def trained(kind):
    """Parameters that know the sentences, by what their logits predict; "nothing" is random."""
    params = make().init(jax.random.key(0))
    if kind == "nothing":
        return params
    hides, causal, follows = {
        "own": (True, False, False),
        "next": (True, False, True),
        "left to right": (False, True, True),
    }[kind]
    return trainer()(params, hides, causal, follows, MODEL.rope_theta)


def save(directory, kind):
    """A checkpoint with its tokenizer; "left to right" as one of Qwen3, without a mask token."""
    huggingface.write(directory, trained(kind)["denoiser"], MODEL, lineage={})
    TOKENIZER.save_pretrained(directory)
    if kind == "left to right":
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "qwen3"}))
    return directory
