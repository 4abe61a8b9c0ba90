"""The check of published weights before RL, in evaluations, and by the doctor."""

import dataclasses
import time
from typing import Any

from jax.sharding import Mesh

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import Config
from diffpo_jax.data import tokenizers
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.distributed import sharding
from diffpo_jax.evaluation import weight_check
from diffpo_jax.evaluation.weight_check import Rows, Verdict
from diffpo_jax.models.policy import Policy
from diffpo_jax.run import base_model
from diffpo_jax.run import setup as run_setup
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.progress import say

_SHOWN = 4  # demonstrations that are read


def check(setup: run_setup.Setup, params: Params) -> Verdict | None:
    """Says whether weights that were published, or SFT of them, can predict hidden words.

    Returns:
      None if nothing was checked: `config.model.check_weights` is "off", the weights were random at
      first, or the tokenizer cannot write sentences.

    Raises:
      UserError: they clearly cannot, and `config.model.check_weights` is "stop".
    """
    config = setup.config
    weights = base_model.weights_of(config)
    if config.model.check_weights == "off" or not weights:
        return None
    found = _verdict(config, setup.policy, params, setup.tokenizer, setup.mesh, setup)
    if found is None:
        return None
    if found.ok is False and config.model.check_weights == "stop":
        raise UserError(
            f"{weights}: {found.line()} To go on all the same: --config.model.check_weights=warn."
        )
    say(f"{'' if found.ok else 'warning: '}{weights}: {found.line()}")
    return found


def examine(config: Config) -> Verdict | None:
    """The verdict on the published weights of a configuration, without a task.

    Raises:
      UserError: there are none, or they do not fit the configuration.
    """
    if not config.model.weights:
        raise UserError("no weights to check: give --model, or a --config that names some.")
    config = run_setup.with_weights(dataclasses.replace(config, init_from=None))
    mesh = mesh_lib.make_mesh(config.mesh)
    tokenizer = tokenizers.make_tokenizer(config.tokenizer)
    config = run_setup.with_sizes(config, tokenizer, mesh)
    policy = run_setup.make_policy(config, tokenizer, mesh)
    params = base_model.untrained(config, policy, mesh, config.model.quantized)
    return _verdict(config, policy, params, tokenizer, mesh, None)


def _verdict(
    config: Config,
    policy: Policy,
    params: Params,
    tokenizer: Any,
    mesh: Mesh,
    setup: run_setup.Setup | None,
) -> Verdict | None:
    began = time.monotonic()

    def demonstrations() -> Rows:
        batch = run_setup.demonstrations_of(setup, _SHOWN)
        end = tokenizers.special_ids(tokenizer).end
        return weight_check.demonstrated_rows(batch.tokens, batch.mask, batch.target, end)

    found = weight_check.check(
        policy,
        params,
        tokenizer,
        config.model,
        demonstrations=demonstrations if setup else None,
        replicated=sharding.replicated(mesh),
    )
    if found is None:
        say("note: the tokenizer cannot write sentences, so that the weights are not checked.")
    else:
        say(f"weights checked in {time.monotonic() - began:.1f} s")
    return found
