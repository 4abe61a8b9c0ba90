"""Slow and obvious versions of the code in numpy and float64, and models small enough for them."""

import itertools
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpo_jax.arrays.types import Prompts
from diffpo_jax.config import ModelConfig, ThresholdConfig
from diffpo_jax.models.families import make_policy
from diffpo_jax.models.policy import Policy


def draw(log_p, u):
    """A token from two uniform numbers, for a part of the vocabulary and for a token within it.

    Parts have as many tokens as the largest divisor of V up to its root, for small V.
    """
    p = np.exp(np.asarray(log_p, np.float64))
    root = int(np.sqrt(len(p)))
    size = max(n for n in range(1, root + 1) if len(p) % n == 0)
    first, second = map(float, u)
    parts = p.reshape(-1, size)
    part = np.searchsorted(np.cumsum(parts.sum(1)) / p.sum(), first, side="right")
    inside = np.searchsorted(np.cumsum(parts[part]) / parts[part].sum(), second, side="right")
    return part * size + inside


# A model that looks up its logits: every state and every prompt token has a row in a table.


def table_policy(length, vocab, mask_id, logit_shift=0):
    """A policy whose hidden states are its logits, read from tables in the parameters."""
    place_value = vocab ** np.arange(length)

    def hidden(params, tokens, mask):
        table, prompt_table = params["denoiser"]["table"], params["denoiser"]["prompt"]
        size = prompt_table.shape[0]
        code = jnp.sum(tokens[:, size:] * place_value, axis=1)
        prompt = prompt_table[jnp.arange(size), tokens[:, :size]]
        total = jnp.sum(jnp.where(mask[:, :size, None], prompt, 0), axis=1)
        # Bidirectional: hidden states of the prompt depend on the completion too.
        prompt = prompt + jnp.mean(table[code], axis=1, keepdims=True)
        return jnp.concatenate([prompt, table[code] + total[:, None]], axis=1)

    def logits(params, states):
        return states * params["denoiser"]["scale"]

    def threshold(params, features):
        mu = features @ params["threshold"]["weight"]
        return mu, 0.4 + 0.2 * jax.nn.sigmoid(features[:, 0])

    return Policy(mask_id, vocab, logit_shift, None, hidden, logits, threshold)


def table_params(seed, prompt_length, length, vocab, spread=1.0):
    """Random tables; entropies differ more with a larger `spread`."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "denoiser": {
            "table": spread * normal(vocab**length, length, vocab),
            "prompt": 0.5 * normal(prompt_length, vocab, vocab),
            "scale": jnp.float32(1.25),
        },
        "threshold": {"weight": normal(vocab)},
    }


def table_hidden(params, prompt, mask, state):
    """Hidden states of `table_policy` in one state of one row: prompt [P V], completion [L V]."""
    tables = {name: np.asarray(x, np.float64) for name, x in params["denoiser"].items()}
    vocab = tables["table"].shape[-1]
    code = sum(int(token) * vocab**k for k, token in enumerate(state))
    completion = tables["table"][code]
    rows = np.array([tables["prompt"][p, prompt[p]] for p in range(len(prompt))])
    return rows + completion.mean(axis=0), completion + rows[np.asarray(mask)].sum(axis=0)


def table_logits(params, prompt, mask, state):
    """Logits [L V] of `table_policy` in one state of one row."""
    return float(params["denoiser"]["scale"]) * table_hidden(params, prompt, mask, state)[1]


def some_prompts(seed, rows, prompt_length, vocab):
    """Left-padded prompts of 1 to P tokens."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, (rows, prompt_length))
    size = rng.integers(1, prompt_length + 1, rows)
    mask = np.arange(prompt_length) >= prompt_length - size[:, None]
    return Prompts(jnp.asarray(tokens, jnp.int32), jnp.asarray(mask))


# The sampler, one row and one position at a time.


def log_probs(logits, mask_id, temperature=1.0):
    """log softmax(logits / T) over all tokens but the mask."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled[..., mask_id] = -np.inf
    scaled -= scaled.max(axis=-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))


def entropy(log_p):
    """Entropy in nats, over the tokens of positive probability."""
    return np.array([-sum(np.exp(x) * x for x in row if x > -np.inf) for row in log_p])


def committed(entropies, allowed, gamma):
    """Positions of the largest prefix with Σ − max ≤ γ, in exact arithmetic."""
    order = sorted((p for p in range(len(entropies)) if allowed[p]), key=lambda p: entropies[p])
    best = 0
    for size in range(1, len(order) + 1):
        h = [Fraction(float(entropies[p])) for p in order[:size]]
        if sum(h) - max(h) <= gamma:
            best = size
    return set(order[:best])


class Record(NamedTuple):
    """The record that the sampler must give of one row."""

    commit_call: np.ndarray
    logprob: np.ndarray
    entropy: np.ndarray


def replay(logits_of, tokens, gamma, mask_id, *, temperature=1.0, block_length=0, max_calls=0):
    """The record of a row whose completion is `tokens`; `logits_of` maps a state to [L V]."""
    length = len(tokens)
    block_length = block_length or length
    commit_call = np.zeros(length, int)
    logprob, entropies = np.zeros(length), np.zeros(length)
    call = 0
    while (commit_call == 0).any():
        call += 1
        state = [t if c else mask_id for t, c in zip(tokens, commit_call)]
        logits = logits_of(state)
        log_p, h = log_probs(logits, mask_id, temperature), entropy(log_probs(logits, mask_id))
        block = int(np.flatnonzero(commit_call == 0)[0]) // block_length
        open_ = [c == 0 and p // block_length == block for p, c in enumerate(commit_call)]
        now = committed(h, open_, gamma)
        if max_calls and call == max_calls:
            now = {p for p in range(length) if commit_call[p] == 0}
        for p in now:
            commit_call[p], logprob[p], entropies[p] = call, log_p[p, tokens[p]], h[p]
    return Record(commit_call, logprob, entropies)


def completions(length, vocab, mask_id):
    """Every completion [n L]; given γ each is reached by exactly one trajectory."""
    real = [token for token in range(vocab) if token != mask_id]
    return np.array(list(itertools.product(real, repeat=length)))


# The denoiser, in plain matrices.


def tiny_policy(
    seed=0, vocab=6, mask_id=5, platform="cpu", threshold=None, lora=None, rows=None, **model
):
    """A real policy of a few hundred parameters, and random values for all of them."""
    sizes = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "ff": 16, "scan_unroll": 1}
    config = ModelConfig(**(sizes | model))
    threshold = threshold or ThresholdConfig(hidden=4, gamma=0.5)
    policy = make_policy(
        config, threshold, lora, vocab=vocab, mask_id=mask_id, platform=platform, rows=rows
    )
    return policy, random_params(policy, seed)


def random_params(policy, seed):
    """Random values for every leaf, none of them zero or one, without compilation."""
    rng = np.random.default_rng(seed)

    def fill(path, x):
        name, noise = jax.tree_util.keystr(path), rng.normal(size=x.shape)
        if "scale" in name:
            noise = 1 + 0.2 * noise
        elif len(x.shape) > 1 and not name.endswith("['embed']"):
            noise = noise * x.shape[-2] ** -0.5
        return jnp.asarray(noise, x.dtype)

    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(fill, shapes)


def rms_norm(x, scale, eps):
    """x / sqrt(mean x² + eps) · scale."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def rotated(x, positions, theta):
    """Rotary embedding of [S Dh], which rotates entries i and i + Dh/2 in their plane."""
    out, half = np.array(x, np.float64), x.shape[-1] // 2
    for row, position in enumerate(positions):
        for i in range(half):
            angle = position * theta ** (-i / half)
            a, b = x[row, i], x[row, i + half]
            out[row, i] = a * np.cos(angle) - b * np.sin(angle)
            out[row, i + half] = a * np.sin(angle) + b * np.cos(angle)
    return out


def attend(q, k, v, mask):
    """Attention of one head, [S Dh], with a softmax over the keys that are not padding."""
    scores = q @ k.T / np.sqrt(q.shape[-1])
    weights = np.exp(scores) * mask
    return weights / weights.sum(-1, keepdims=True) @ v


def denoiser(params, tokens, mask, config):
    """Normalised hidden states [S D] and logits [S V] of one row."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["denoiser"])
    positions = np.maximum(np.cumsum(mask) - 1, 0)
    x = p["embed"][tokens] + (p["place"][positions] if "place" in p else 0)
    size, eps = config.head_width, config.norm_eps
    for layer in range(config.layers):
        b = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"])
        h = rms_norm(x, b["attn_norm"]["scale"], eps)
        heads = []
        for head in range(config.heads):
            columns = slice(head * size, (head + 1) * size)
            kv = head // (config.heads // config.kv_heads)
            kv_columns = slice(kv * size, (kv + 1) * size)
            q, k = (h @ b["q"])[:, columns], (h @ b["k"])[:, kv_columns]
            if config.qk_norm:
                q = rms_norm(q, b["q_norm"]["scale"], eps)
                k = rms_norm(k, b["k_norm"]["scale"], eps)
            q, k = (rotated(x, positions, config.rope_theta) for x in (q, k))
            heads.append(attend(q, k, (h @ b["v"])[:, kv_columns], mask))
        x = x + np.concatenate(heads, axis=-1) @ b["o"]
        h = rms_norm(x, b["ff_norm"]["scale"], eps)
        gate = h @ b["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ b["up"])) @ b["down"]
    hidden = rms_norm(x, p["norm"]["scale"], eps)
    return hidden, hidden @ (p["embed"].T if config.tied else p["unembed"])
