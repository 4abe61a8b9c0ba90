"""The programs of an RL step, compiled for devices that need not be present.

Arguments are shapes with shardings, so nothing is allocated. The programs are those of a run, from
`rl.step.make_programs`.
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
from diffpo_jax.distributed import chips, sharding
from diffpo_jax.planning import vocabulary
from diffpo_jax.rl import step as rl_step
from diffpo_jax.rl import update
from diffpo_jax.run import setup, sizes, trained


class Program(NamedTuple):
    """A program and the shapes of its arguments."""

    function: Any  # jitted
    arguments: tuple[Any, ...]  # shapes with shardings
    times: int  # runs per RL step
    held: int = 1  # of its arguments, the first ones, that a run keeps throughout


class Step(NamedTuple):
    """The programs of an RL step and the shapes, with shardings, of what a run keeps."""

    config: Config  # with sizes in place of "auto"
    state: TrainState  # the trained parameters and the optimiser's state
    frozen: Params  # the other parameters
    reference: Params  # parameters of which a run keeps a second copy, for a KL term
    programs: dict[str, Program]  # by name; programs that are not needed are absent
    run: rl_step.Programs  # all programs of a run, also those too small to plan


class Compiled(NamedTuple):
    """A compiled program, or the compiler's refusal."""

    executable: Any  # None if the compiler refused for lack of memory
    refusal: str  # the compiler's message if it refused, else ""
    seconds: float  # compilation time


def make_step(config: Config, mesh: Mesh, memory: float | None = None) -> Step:
    """The programs `rollout`, `score` (old and reference log-probabilities) and `update`.

    Nothing is compiled yet; shapes alone are traced.

    Args:
      memory: bytes of a device, which bound sizes that are "auto"; None if unknown.

    Raises:
      UserError: the vocabulary is not known, or an array does not divide over the mesh.
    """
    words = vocabulary.make_vocabulary(config)
    platform = chips.platform(mesh.devices.flat[0])
    config = sizes.resolve(config, platform, words.size, memory)
    policy = setup.policy_of_vocabulary(config, vocab=words.size, mask_id=words.mask, mesh=mesh)
    rl = trained.for_rl(config, policy, mesh)
    shapes = trained.shapes(policy, mesh, config.model.quantized)
    own, frozen = trained.split(shapes, rl.groups)
    reference = trained.reference_shapes(own, config, mesh) if config.rl.objective.kl else {}
    settings = setup.rollout_settings(config, words.ends)
    run = rl_step.make_programs(
        policy, rl.optimizer, config.rl, settings, rl.groups, mesh, rl.state, setup.slots(config)
    )
    programs = _with_arguments(run, rl.state, frozen, config, mesh)
    return Step(config, rl.state, frozen, reference, programs, run)


def _with_arguments(
    run: rl_step.Programs, state: TrainState, frozen: Params, config: Config, mesh: Mesh
) -> dict[str, Program]:
    """The programs with the shapes that a run calls them with, as in `rl.step.run_step`."""
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

    advantage = jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=batch)
    dial = scalar if run.head_update is None else advantage  # prices belong to rows
    rollout_inputs = (params, prompts, dial, everywhere(keys))
    programs = {"rollout": Program(run.generate, rollout_inputs, 1)}
    rollout, _ = result(run.generate, *rollout_inputs)
    if run.head_update is not None:
        own = state.params[update.HEAD], state.opt_state[update.HEAD]
        head_inputs = (*own, rollout, advantage, everywhere(key), scalar)
        programs["head_update"] = Program(run.head_update, head_inputs, 1, held=2)
        rollout = rollout._replace(choices=None)
    draws = old = reference = None
    if config.mode != "sampler":
        draws = result(run.draw, key, rollout, prompts)
        score_inputs = (params, prompts, rollout, draws)  # as the reference scores
        old = result(run.score, *score_inputs)
        if times := _scorings(config):
            programs["score"] = Program(run.score, score_inputs, times)
        reference = old if rl.objective.kl and rl.objective.kl_in == "loss" else None
        # The first update of a step takes its own log-probabilities for the old ones. The planned
        # program is that of the later updates, which is as large.
        old = old if rl.inner_updates > 1 else None
    exact = rl.objective.selection == "exact"
    sets = result(run.old_selection, params, rollout) if exact else None
    if run.update is None:
        return programs
    right = None
    if rl.objective.right_likelihood:
        right = jax.ShapeDtypeStruct((rows,), jnp.bool_, sharding=batch)
    learned = update.Batch(prompts, rollout, advantage, draws, old, reference, sets, right)
    inputs = (update.without_head(state), frozen, learned, scalar)
    programs["update"] = Program(run.update, inputs, rl.inner_updates, held=2)
    return programs


def _scorings(config: Config) -> int:
    """Scorings per step, for the log-probabilities under θ_old and under the reference."""
    updates, objective = config.rl.inner_updates, config.rl.objective
    if objective.kl and objective.kl_in == "reward":
        return updates + 1
    return updates - 1 + (updates if objective.kl else 0)


def compile_program(program: Program) -> Compiled:
    """Compiles a program. A refusal for lack of memory is a result and raises nothing."""
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
