"""Completes single prompts with a run's model, and records which call committed each token."""

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffpo_jax import tasks
from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Prompts
from diffpo_jax.config import DIALS, Config
from diffpo_jax.data import prompts as data
from diffpo_jax.data import tokenizers
from diffpo_jax.diffusion import sampler
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.evaluation import threshold_choice
from diffpo_jax.report import decode_order
from diffpo_jax.report.decode_order import Completion
from diffpo_jax.run import base_model, early, setup
from diffpo_jax.workdir import layout


def complete(
    config: Config, workdir: str, texts: Sequence[str], *, model: str, dial: float | None
) -> list[Completion]:
    """Completes every text.

    Args:
      workdir: of a run, with its checkpoints.
      texts: whole prompts; the chat template and the prefill of `config.task.prompt` are applied.
      model: "trained" or "base".
      dial: of the commit rule; None for the learned threshold if the run has one, otherwise the
        configuration's dial.

    Raises:
      UserError: there is no such checkpoint; a prompt is empty, too long or has a character that
        the tokenizer does not know; the dial is out of range.
    """
    # 1. Read the run's model and encode the prompts.
    early.check_dial(config, dial)
    task = tasks.find_class(config.task.name)
    run_config = layout.read_config(layout.Workdir(pathlib.Path(workdir)))
    config = setup.with_network_of(config, run_config)
    tokenizer = tokenizers.make_tokenizer(config.tokenizer)
    prompt = config.task.prompt
    tokens, mask = data.encode_prompts(texts, tokenizer, config.sampler.prompt_length, prompt)
    mesh = mesh_lib.make_mesh(config.mesh)
    config = setup.with_sizes(config, tokenizer, mesh)
    policy = setup.make_policy(config, tokenizer, mesh)
    params = base_model.restore(workdir, model, policy, mesh, config.model.quantized)
    kind, number = threshold_choice.threshold_in_use(config, run=run_config, model=model, dial=dial)
    # 2. Generate.
    settings = sampler.make_settings(
        config.decoder, config.evaluation.temperature, tokenizers.end_ids(tokenizer)
    )
    generate = jax.jit(sampler.make_generate(policy, settings, threshold=kind))
    keys = rng.row_keys(rng.key_for(config.seed, "evaluate"), jnp.arange(len(texts)))
    prompts = Prompts(jnp.asarray(tokens), jnp.asarray(mask))
    rollout = jax.device_get(generate(params, prompts, jnp.float32(number), keys))
    # 3. Lay the completions out as the task shows them.
    written = []
    for i, text in enumerate(texts):
        one = Completion(
            prompt=text,
            pieces=[tokenizers.token_text(tokenizer, int(t)) for t in rollout.tokens[i]],
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
        shown = task.lay_out(text, one.text)
        written.append(decode_order.with_layout(one, len(prompt.prefill), **shown._asdict()))
    return written
