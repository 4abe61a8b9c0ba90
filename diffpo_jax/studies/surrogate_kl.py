"""Figure 2 of the paper: how far each surrogate is from the sampler, call by call.

1. the model: the run's base, or the run trained;
2. rollouts of test prompts, as in training;
3. for each token its KL from every earlier state (`diffusion.divergence`): one matrix, whatever K;
4. for each K, anchors drawn many times; means by call; Theorem 1's slack;
5. whether the assumption of the paper's Theorem 3 holds: that a later state is never worse.
"""

import functools
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.config import Config, Figure2Config, StudyConfig
from diffpo_jax.data import prompts as data
from diffpo_jax.data import tokenizers
from diffpo_jax.diffusion import anchors as anchor_lib
from diffpo_jax.diffusion import likelihood, sampler, state_kl
from diffpo_jax.report import kl_per_call, picture
from diffpo_jax.rl import diagnostics
from diffpo_jax.run import base_model, experiment
from diffpo_jax.run import setup as run_setup
from diffpo_jax.system import files
from diffpo_jax.workdir import layout

_GROWTH = 1e-6  # nats; below it a difference is rounding


class Measured(NamedTuple):
    """The matrix of KLs and what it is read with; rows are rollouts, a prompt's together."""

    matrix: np.ndarray  # [B L N] nats
    commit_call: np.ndarray  # [B L]
    sampled: np.ndarray  # [B L]
    nfe: np.ndarray  # [B]


def run(config: StudyConfig, workdir: str) -> dict[str, Any]:
    """Runs or resumes the study in a workdir; the run it measures is in WORKDIR/run.

    Returns:
      What is in report/figure2.json.
    """
    root = pathlib.Path(workdir)
    paths = layout.open_workdir(str(root / "run"), config.run, overwrite=False)
    setup = run_setup.prepare(config.run, paths)
    params = base_model.base_model(setup)
    if config.figure2.model == "trained":
        params = experiment.train(setup, params)
    measured = measure(setup, params, config.figure2)
    result = summarise(measured, config.run, config.figure2)
    result |= {
        "settings": {
            "model": config.figure2.model,
            "prompts": measured.nfe.size // config.figure2.rollouts,
            "rollouts": config.figure2.rollouts,
            "draws": config.figure2.draws,
            "schedule": config.run.rl.likelihood.schedule,
            "temperature": config.run.sampler.temperature,
            "rule": config.run.sampler.rule,
            "dial": config.run.dial,
            "seed": config.run.seed,
        },
        "commit": layout.commit(),
        "versions": layout.versions(),
    }
    picture.write(kl_per_call.draw(result), root / "report")
    files.write_json(root / "report" / "figure2.json", result)
    print(kl_per_call.as_text(result))
    print(f"report: {root / 'report'}")
    return result


def measure(setup: run_setup.Setup, params: Params, config: Figure2Config) -> Measured:
    """Rollouts of the first test prompts, drawn as in training, and their matrices."""
    run = setup.config
    examples = setup.task.examples("test")[: config.prompts]
    encoded = next(
        data.batches_in_order(
            examples,
            setup.tokenizer,
            prompt_length=run.sampler.prompt_length,
            length=run.sampler.length,
            batch=len(examples),
        )
    )
    repeated = jax.tree.map(lambda x: np.repeat(x, config.rollouts, axis=0), encoded)
    prompts = Prompts(jnp.asarray(repeated.tokens), jnp.asarray(repeated.mask))
    settings = sampler.make_settings(
        run.sampler, run.sampler.temperature, tokenizers.end_ids(setup.tokenizer)
    )
    threshold = "fixed" if run.mode == "model" else "drawn"
    sample = jax.jit(sampler.make_generate(setup.policy, settings, threshold=threshold))
    rows = repeated.index.size
    keys = rng.row_keys(rng.key_for(run.seed, "rollout", 0), jnp.arange(rows))
    rollout = sample(params, prompts, jnp.float32(run.dial), keys)

    matrix_of = jax.jit(
        functools.partial(
            state_kl.kl_from_states,
            setup.policy,
            temperature=settings.temperature,
            end=settings.end,
        )
    )
    size = min(config.batch, rows)
    parts = []
    for start in range(0, rows, size):
        # The last part overlaps the one before it: one shape, one compilation.
        first = min(start, rows - size)
        part = jax.tree.map(lambda x, i=first: x[i : i + size], (prompts, rollout))
        matrix = np.asarray(matrix_of(params, *part))
        parts.append(matrix[start - first :])
    on_host: Rollout = jax.device_get(rollout)
    return Measured(np.concatenate(parts), on_host.commit_call, on_host.sampled, on_host.nfe)


def summarise(measured: Measured, run: Config, config: Figure2Config) -> dict[str, Any]:
    """Means by K and call, and what Theorem 3 assumes, from the matrix.

    Standard errors are over prompts: rollouts of one prompt are not independent.
    """
    by_k = {}
    for count in config.anchors:
        kl = surrogate_kl(measured, run, config, count)
        by_k[str(count)] = _by_call(kl, measured, config.rollouts) | _overall(
            kl, measured, config.rollouts
        )
    return {"surrogates": by_k, "assumption": assumption(measured)}


def surrogate_kl(measured: Measured, run: Config, config: Figure2Config, count: int) -> np.ndarray:
    """D[k, s(k)] of every token for K = `count`, the mean over draws of the anchors: [B L]."""
    calls, nfe = jnp.asarray(measured.commit_call), jnp.asarray(measured.nfe)
    schedule = run.rl.likelihood.schedule

    @jax.jit
    def seen_from(key):
        anchors = anchor_lib.draw_anchors(key, calls, nfe, count, schedule)
        of_token = jnp.maximum(likelihood.segment(calls, anchors), 0)
        return jnp.take_along_axis(anchors, of_token, axis=1)

    total = np.zeros(measured.commit_call.shape)
    for i in range(config.draws):
        key = jax.random.fold_in(rng.key_for(run.seed, "draws", count), i)
        state = np.minimum(np.asarray(seen_from(key)), measured.matrix.shape[2] - 1)
        total += np.take_along_axis(measured.matrix, state[..., None], axis=2)[..., 0]
    return total / config.draws


def assumption(measured: Measured) -> dict[str, Any]:
    """How often a token's KL grows where the state it is seen from is a later one.

    Returns:
      pairs: neighbouring states (s, s+1) before a token's own, over all tokens; pairs_growing:
      the share where the KL grows; tokens_holding: the share of tokens for which it never does;
      mean_by_state: for each s the mean KL of tokens seen from it, and of the same tokens from
      s+1.
    """
    matrix = measured.matrix
    own = np.where(measured.sampled, measured.commit_call - 1, 0)  # index of a token's own state
    states = np.arange(matrix.shape[2] - 1)
    there = states < own[..., None]
    grows = (matrix[..., 1:] > matrix[..., :-1] + _GROWTH) & there
    any_pair = there.any(axis=-1)
    by_state = []
    for s in states:
        if (of := there[..., s]).any():
            now, then = matrix[..., s][of], matrix[..., s + 1][of]
            by_state.append({"state": int(s), "kl": _mean(now), "kl_next": _mean(then)})
    return {
        "pairs": int(there.sum()),
        "pairs_growing": float(grows.sum() / max(there.sum(), 1)),
        "tokens_holding": float(1 - grows.any(axis=-1)[any_pair].mean()) if any_pair.any() else 1.0,
        "mean_by_state": by_state,
    }


def _by_call(kl: np.ndarray, measured: Measured, group: int) -> dict[str, Any]:
    points = []
    for call in range(1, int(measured.nfe.max()) + 1):
        there = measured.sampled & (measured.commit_call == call)
        if there.any():
            mean, error = _mean_and_error(kl, there, group)
            tokens = int(there.sum())
            points.append({"call": call, "kl": mean, "standard_error": error, "tokens": tokens})
    return {"by_call": points}


def _overall(kl: np.ndarray, measured: Measured, group: int) -> dict[str, float]:
    mean, error = _mean_and_error(kl, measured.sampled, group)
    sequence = float(np.where(measured.sampled, kl, 0).sum(axis=1).mean())
    return {
        "kl_token": mean,
        "standard_error": error,
        "kl_sequence": sequence,
        "theorem1_slack": diagnostics.theorem1_slack(sequence),
    }


def _mean_and_error(kl: np.ndarray, there: np.ndarray, group: int) -> tuple[float, float]:
    """Mean over tokens, and its standard error over prompts (of a ratio of two sums)."""
    total = np.where(there, kl, 0).sum(axis=1).reshape(-1, group).sum(axis=1)
    count = there.sum(axis=1).reshape(-1, group).sum(axis=1)
    mean = total.sum() / count.sum()
    if total.size < 2:
        return float(mean), math.nan
    residual = total - mean * count
    variance = total.size / (total.size - 1) * (residual**2).sum() / count.sum() ** 2
    return float(mean), float(math.sqrt(variance))


def _mean(x: np.ndarray) -> float:
    return float(x.mean())
