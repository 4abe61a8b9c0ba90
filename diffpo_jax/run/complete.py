"""Completions of single prompts by a run's model, with the order they were written in."""

import math
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Params, Prompts
from diffpo_jax.config import DIALS, Config
from diffpo_jax.data import prompts as data
from diffpo_jax.data import tokenizers
from diffpo_jax.diffusion import sampler
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.distributed import sharding
from diffpo_jax.models.policy import Policy
from diffpo_jax.report.decode_order import Completion
from diffpo_jax.run import base_model, setup
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import checkpoints, layout


def complete(
    config: Config, workdir: str, texts: Sequence[str], *, model: str, dial: float | None
) -> list[Completion]:
    """A completion of every text.

    Args:
      workdir: of a run, with its checkpoints.
      texts: whole prompts; the chat template and the prefill of `config.task.prompt` are applied.
      model: "trained" or "base".
      dial: of the commit rule; None: the learned threshold where the run has one, otherwise the
        configuration's.

    Raises:
      UserError: no such checkpoint, an empty or too long prompt, a character the tokenizer does
        not know, a dial that makes no sense.
    """
    _check_dial(config, dial)
    of_run = layout.config_of(layout.Workdir(pathlib.Path(workdir)))
    config = setup.with_network_of(config, of_run)
    tokenizer = tokenizers.make_tokenizer(config.tokenizer)
    prompt = config.task.prompt
    tokens, mask = data.encode_prompts(texts, tokenizer, config.sampler.prompt_length, prompt)
    mesh = mesh_lib.make_mesh(config.mesh)
    policy = setup.make_policy(config, tokenizer, mesh)
    params = restore(workdir, model, policy, mesh, config.model.quantized)
    learned = dial is None and model == "trained" and "model" not in (config.mode, of_run.mode)
    settings = sampler.make_settings(
        config.decoder, config.evaluation.temperature, tokenizers.end_ids(tokenizer)
    )
    threshold = "median" if learned else "fixed"
    run = jax.jit(sampler.make_generate(policy, settings, threshold=threshold))
    number = 1.0 if learned else config.dial if dial is None else dial
    keys = rng.row_keys(rng.key_for(config.seed, "evaluate"), jnp.arange(len(texts)))
    prompts = Prompts(jnp.asarray(tokens), jnp.asarray(mask))
    rollout = jax.device_get(run(params, prompts, jnp.float32(number), keys))
    return [
        Completion(
            prompt=text,
            pieces=[tokenizers.piece(tokenizer, int(t)) for t in rollout.tokens[i]],
            calls=rollout.commit_call[i].tolist(),
            sampled=rollout.sampled[i].tolist(),
            probabilities=np.exp(rollout.logprob[i]).tolist(),
            entropies=rollout.entropy[i].tolist(),
            text=prompt.prefill + tokenizers.decode_answer(tokenizer, rollout.tokens[i]),
            nfe=int(rollout.nfe[i]),
            dial=DIALS[config.sampler.rule],
            value=float(rollout.gamma[i]),
            forced=bool(rollout.forced[i]),
        )
        for i, text in enumerate(texts)
    ]


def _check_dial(config: Config, dial: float | None) -> None:
    if dial is None:
        return
    name, blocks = DIALS[config.sampler.rule], config.sampler.length // config.decoder.block_length
    if math.isnan(dial) or dial < 0:
        raise UserError(f"--dial={dial} must be a number and not negative.")
    if name == "steps" and (dial < 1 or dial % blocks):
        raise UserError(f"--dial={dial:g}: the calls must be a multiple of the {blocks} blocks.")
    if name == "confidence" and dial > 1:
        raise UserError(f"--dial={dial:g}: rule 'confidence' takes a probability.")


def restore(workdir: str, model: str, policy: Policy, mesh: Mesh, kind: str = "") -> Params:
    """Parameters of a run's model, "trained" or "base", laid out over a mesh.

    Args:
      policy: with the run's own adapter.
      kind: what kernels that RL did not train are kept as, as `config.model.quantized`.

    Raises:
      UserError: no run, no such checkpoint, or one of another shape.
    """
    paths = layout.Workdir(pathlib.Path(workdir))
    if model == "base":
        return base_model.read(paths.root, policy, mesh, kind)
    shapes = base_model.trained_shapes(layout.config_of(paths), policy)
    shapes = sharding.abstract(shapes, mesh)
    trained = checkpoints.restore_params(paths.rl, shapes)
    whole = {"denoiser", "threshold"} <= trained.keys()
    # Checkpoints of RL hold what it trains; the rest is the base model's.
    return trained if whole else base_model.read(paths.root, policy, mesh, kind) | trained
