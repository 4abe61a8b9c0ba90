"""Figure 2 of the paper: the KL between the sampler and each surrogate, call by call.

1. Make the model: the run's base model, or the trained one.
2. Roll out test prompts as in training.
3. Compute each token's KL from every earlier state (`diffusion.state_kl`): one matrix for all K.
4. For each K, draw anchors many times; take means by call, and Theorem 1's slack.
5. Check the assumption of the paper's Theorem 3, that a later state is never worse.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.config import Config, Figure2Config, StudyConfig, check
from diffpo_jax.data import prompts as data
from diffpo_jax.data import tokenizers
from diffpo_jax.diffusion import anchors as anchor_lib
from diffpo_jax.diffusion import likelihood, sampler, state_kl
from diffpo_jax.distributed import hosts
from diffpo_jax.evaluation.threshold_choice import is_learned
from diffpo_jax.report import kl_per_call, picture
from diffpo_jax.rl import diagnostics
from diffpo_jax.run import base_model, train_rl
from diffpo_jax.run import setup as run_setup
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import layout, provenance

_ROUNDING = 1e-6  # nats; a smaller increase counts as rounding


class Measured(NamedTuple):
    """The matrix of KLs and the record of its rollouts; those of a prompt are adjacent rows."""

    matrix: np.ndarray  # [B L N] nats
    commit_call: np.ndarray  # [B L]
    sampled: np.ndarray  # [B L]
    nfe: np.ndarray  # [B]


def run(config: StudyConfig, workdir: str) -> dict[str, Any]:
    """Runs or resumes the study in a workdir; the measured run is in WORKDIR/run.

    Returns:
      The contents of report/figure2.json.
    """
    root = pathlib.Path(workdir)
    config = dataclasses.replace(config, run=run_setup.with_weights(config.run))
    if config.figure2.model == "trained":
        check.check_training(config.run)
    paths = hosts.in_turn(
        lambda: layout.open_workdir(str(root / "run"), config.run, overwrite=False)
    )
    setup = run_setup.prepare(config.run, paths)
    _check_prompts(setup)
    with setup.writer:
        params = base_model.make(setup)
        run_setup.record(setup, config.run)
        if config.figure2.model == "trained":
            params = train_rl.train(setup, params)
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
        "commit": provenance.commit(),
        "versions": provenance.versions(),
    }
    if hosts.is_first():
        picture.write(kl_per_call.draw(result), root / "report")
        files.write_json(root / "report" / "figure2.json", result)
        print(kl_per_call.as_text(result))
        print(f"report: {root / 'report'}")
    return result


def _check_prompts(setup: run_setup.Setup) -> None:
    if (count := len(setup.task.examples("test"))) < 2:
        raise UserError(
            f"the study needs 2 test prompts or more for its error bars, and the task has {count}: "
            "see config.run.task.test_file."
        )


def measure(setup: run_setup.Setup, params: Params, config: Figure2Config) -> Measured:
    """Rolls out the first test prompts as in training, and computes the matrix of their KLs."""
    # 1. Encode the prompts, each repeated for its rollouts.
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
    # 2. Roll out.
    settings = sampler.make_settings(
        run.sampler,
        run.sampler.temperature,
        tokenizers.end_ids(setup.tokenizer),
        rows_per_prompt=config.rollouts,
    )
    threshold = "drawn" if is_learned(run, run.sampler.rule) else "fixed"
    sample = jax.jit(sampler.make_generate(setup.policy, settings, threshold=threshold))
    rows = repeated.index.size
    keys = rng.row_keys(rng.key_for(run.seed, "rollout", 0), jnp.arange(rows))
    rollout = sample(params, prompts, jnp.float32(run.dial), keys)

    # 3. Compute the matrix in batches.
    matrix_of = jax.jit(functools.partial(state_kl.kl_from_states, setup.policy, settings=settings))
    size = min(config.batch, rows)
    parts = []
    for start in range(0, rows, size):
        # The last part overlaps the one before it, so that one compilation serves all.
        first = min(start, rows - size)
        part = jax.tree.map(lambda x, i=first: x[i : i + size], (prompts, rollout))
        matrix = np.asarray(matrix_of(params, *part))
        parts.append(matrix[start - first :])
    on_host: Rollout = jax.device_get(rollout)
    return Measured(np.concatenate(parts), on_host.commit_call, on_host.sampled, on_host.nfe)


def summarise(measured: Measured, run: Config, config: Figure2Config) -> dict[str, Any]:
    """Means by K and call, and statistics of Theorem 3's assumption, from the matrix.

    Standard errors are over prompts, as rollouts of one prompt are not independent.
    """
    by_k = {}
    for count in config.anchors:
        kl = surrogate_kl(measured, run, config, count)
        by_k[str(count)] = _statistics(kl, measured, config.rollouts)
    return {"surrogates": by_k, "assumption": check_assumption(measured)}


def surrogate_kl(measured: Measured, run: Config, config: Figure2Config, count: int) -> np.ndarray:
    """D[k, s(k)] of every token [B L] for K = `count`, averaged over draws of the anchors."""
    calls, nfe = jnp.asarray(measured.commit_call), jnp.asarray(measured.nfe)
    schedule = run.rl.likelihood.schedule

    @jax.jit
    def draw_states(key):
        anchors = anchor_lib.draw_anchors(key, calls, nfe, count, schedule)
        index = jnp.maximum(likelihood.anchor_index(calls, anchors), 0)
        return jnp.take_along_axis(anchors, index, axis=1)

    total = np.zeros(measured.commit_call.shape)
    for i in range(config.draws):
        key = jax.random.fold_in(rng.key_for(run.seed, "draws", count), i)
        state = np.minimum(np.asarray(draw_states(key)), measured.matrix.shape[2] - 1)
        total += np.take_along_axis(measured.matrix, state[..., None], axis=2)[..., 0]
    return total / config.draws


def check_assumption(measured: Measured) -> dict[str, Any]:
    """How often a token's KL increases from one state to the next.

    Returns:
      pairs: the number of adjacent states (s, s+1) up to each token's own state, over all tokens;
      pairs_growing: the share of pairs for which the KL increases; tokens_holding: the share of
      tokens for which it never does; mean_by_state: for each s, the mean KL of tokens from s and
      of the same tokens from s+1.
    """
    matrix = measured.matrix
    own = np.where(measured.sampled, measured.commit_call - 1, 0)  # index of a token's own state
    states = np.arange(matrix.shape[2] - 1)
    is_pair = states < own[..., None]
    grows = (matrix[..., 1:] > matrix[..., :-1] + _ROUNDING) & is_pair
    has_pair = is_pair.any(axis=-1)
    by_state = []
    for s in states:
        if (tokens := is_pair[..., s]).any():
            kl, kl_next = (float(matrix[..., i][tokens].mean()) for i in (s, s + 1))
            by_state.append({"state": int(s), "kl": kl, "kl_next": kl_next})
    return {
        "pairs": int(is_pair.sum()),
        "pairs_growing": float(grows.sum() / max(is_pair.sum(), 1)),
        "tokens_holding": float(1 - grows.any(axis=-1)[has_pair].mean()) if has_pair.any() else 1.0,
        "mean_by_state": by_state,
    }


def _statistics(kl: Float[np.ndarray, "B L"], measured: Measured, group: int) -> dict[str, Any]:
    """Means by call, per token and per sequence, and Theorem 1's slack."""
    by_call = []
    for call in range(1, int(measured.nfe.max()) + 1):
        counted = measured.sampled & (measured.commit_call == call)
        if counted.any():
            mean, error = _mean_and_error(kl, counted, group)
            tokens = int(counted.sum())
            by_call.append({"call": call, "kl": mean, "standard_error": error, "tokens": tokens})
    mean, error = _mean_and_error(kl, measured.sampled, group)
    sequence = float(np.where(measured.sampled, kl, 0).sum(axis=1).mean())
    return {
        "by_call": by_call,
        "kl_token": mean,
        "standard_error": error,
        "kl_sequence": sequence,
        "theorem1_slack": diagnostics.theorem1_slack(sequence),
    }


def _mean_and_error(
    kl: Float[np.ndarray, "B L"], counted: Bool[np.ndarray, "B L"], group: int
) -> tuple[float, float]:
    """The mean over counted tokens, and its standard error over prompts, as of a ratio of sums."""
    total = np.where(counted, kl, 0).sum(axis=1).reshape(-1, group).sum(axis=1)
    count = counted.sum(axis=1).reshape(-1, group).sum(axis=1)
    mean = total.sum() / count.sum()
    if total.size < 2:
        return float(mean), math.nan
    residual = total - mean * count
    variance = total.size / (total.size - 1) * (residual**2).sum() / count.sum() ** 2
    return float(mean), float(math.sqrt(variance))
