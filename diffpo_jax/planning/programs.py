"""The programs of an RL step, compiled for devices that need not be there.

Arguments are shapes with shardings; nothing is allocated.  The programs are those of
`rl.step.make_programs`, which a run uses.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Params, Prompts, TrainState
from diffpo_jax.config import Config
from diffpo_jax.diffusion import sampler
from diffpo_jax.distributed import chips, sharding
from diffpo_jax.models import families
from diffpo_jax.planning import vocabulary
from diffpo_jax.rl import step as rl_step
from diffpo_jax.rl import update
from diffpo_jax.run import setup, trained


class Program(NamedTuple):
    """One program and what it is called with."""

    function: Any  # jitted
    arguments: tuple[Any, ...]  # shapes with shardings
    times: int  # in an RL step


class Step(NamedTuple):
    """The programs of an RL step by name; those that are not needed are absent."""

    state: TrainState  # shapes with shardings, of what is trained
    frozen: Params  # the other parameters
    reference: Params  # those of which a run keeps a second copy, for a KL
    programs: dict[str, Program]
    run: rl_step.Programs  # all of a run's, those too small to plan among them


class Compiled(NamedTuple):
    """What the compiler made of a program, or what it said."""

    executable: Any  # None: refused for want of memory
    refusal: str  # the compiler's sentence then
    seconds: float  # of compilation


def make_step(config: Config, mesh: Mesh) -> Step:
    """Traces nothing yet but shapes.

    Returns:
      rollout, score (of old and reference log-probabilities) and update.

    Raises:
      UserError: the vocabulary is not known, or an array does not divide over the mesh.
    """
    words = vocabulary.of_config(config)
    policy = families.make_policy(
        config.model,
        config.threshold,
        config.lora,
        vocab=words.size,
        mask_id=words.mask,
        platform=chips.platform(mesh.devices.flat[0]),
        rows=sharding.batch_sharding(mesh) if mesh.size > 1 else None,
    )
    rl = trained.for_rl(config, policy, mesh)
    shapes = trained.shapes(policy, mesh, config.model.quantized)
    own, frozen = trained.split(shapes, rl.groups)
    reference = trained.reference_shapes(own, config, mesh) if config.rl.objective.kl else {}
    settings = sampler.make_settings(
        config.sampler, config.sampler.temperature, words.ends, config.threshold.scope
    )
    run = rl_step.make_programs(
        policy, rl.optimizer, config.rl, settings, rl.groups, mesh, rl.state, setup.slots(config)
    )
    programs = _with_arguments(run, rl.state, frozen, config, mesh)
    return Step(rl.state, frozen, reference, programs, run)


def _with_arguments(
    run: rl_step.Programs, state: TrainState, frozen: Params, config: Config, mesh: Mesh
) -> dict[str, Program]:
    """The programs with the arguments that `rl.step.run_step` gives them."""
    rl, params = config.rl, frozen | state.params
    rows, batch = rl.prompts * rl.group, sharding.batch_sharding(mesh)
    everywhere = functools.partial(_shape, placed=sharding.replicated(mesh))
    key = rng.key_for(config.seed, "rollout")
    keys = jax.eval_shape(lambda: rng.row_keys(key, jnp.arange(rows)))
    scalar = everywhere(jax.ShapeDtypeStruct((), jnp.float32))
    shape = (rows, config.sampler.prompt_length)
    prompts = Prompts(
        jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch),
        jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=batch),
    )

    def result(function: Callable[..., Any], *arguments: Any) -> Any:
        out = jax.eval_shape(function, *arguments)
        return jax.tree.map(lambda x: _shape(x, placed=batch), out)

    of_rollout = (params, prompts, scalar, everywhere(keys))
    programs = {"rollout": Program(run.generate, of_rollout, 1)}
    rollout = result(run.generate, *of_rollout)
    draws = old = reference = None
    if config.mode != "sampler":
        draws = result(run.draw, key, rollout, prompts)
        of_score = (params, prompts, rollout, draws)
        old = result(run.score, *of_score)
        if scored := _scored(config):
            programs["score"] = Program(run.score, of_score, scored)
        reference = old if rl.objective.kl and rl.objective.kl_in == "loss" else None
        # The first update takes its own values, and is as large.
        old = old if rl.inner_updates > 1 else None
    exact = rl.objective.selection == "exact"
    sets = result(run.old_selection, params, rollout) if exact else None
    advantage = jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=batch)
    learned = update.Batch(prompts, rollout, advantage, draws, old, reference, sets)
    programs["update"] = Program(run.update, (state, frozen, learned, scalar), rl.inner_updates)
    return programs


def _scored(config: Config) -> int:
    """How often log-probabilities are taken in a step, of θ_old and of the reference."""
    updates, objective = config.rl.inner_updates, config.rl.objective
    if objective.kl and objective.kl_in == "reward":
        return updates + 1
    return updates - 1 + (updates if objective.kl else 0)


def compile_program(program: Program) -> Compiled:
    """Compiles; a refusal for want of memory is a result."""
    began = time.perf_counter()
    lowered = program.function.lower(*program.arguments)
    try:
        executable, refusal = lowered.compile(), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        executable, refusal = None, str(error)
    return Compiled(executable, refusal, time.perf_counter() - began)


def _shape(x: Any, *, placed: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed)
