"""The RL stage: `rl.step` in the loop of `run.stage`, with evaluations and the collapse guard."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import jax

from diffpo_jax.arrays.fingerprint import fingerprint
from diffpo_jax.arrays.types import Params, TrainState
from diffpo_jax.data import tokenizers
from diffpo_jax.evaluation import grading
from diffpo_jax.rl import collapse_guard
from diffpo_jax.rl import step as rl_step
from diffpo_jax.run import frontiers, stage, trained
from diffpo_jax.run import setup as run_setup
from diffpo_jax.run.setup import RL, Setup
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import checkpoints

_SHOWN = "reward", "accuracy", "nfe"  # metrics on the progress line
_SAMPLES = 64  # rollouts in a file of samples


def train(setup: Setup, base: Params) -> Params:
    """Trains from the newest checkpoint, or from the base model, to the last step.

    Args:
      base: all parameters of the base model, which are consumed.

    Returns:
      All parameters after the last step.

    Raises:
      UserError: the objective or a gradient is not finite; the guard stopped the run; a checkpoint
        could not be read or written, or was trained over another base model.
      Stopped: after SIGTERM or Ctrl-C, with the step saved.
    """
    config = setup.config
    # 1. Decide what is trained, frozen and compared with.
    rl = trained.for_rl(config, setup.policy, setup.mesh)
    start_params, frozen = trained.split(base, rl.groups)
    del base
    reference = None
    if config.rl.objective.kl:
        # The state is donated step by step, so the reference needs arrays of its own.
        copy = functools.partial(trained.reference, config=config)
        jitted = jax.jit(copy, out_shardings=trained.shardings(start_params))
        reference = frozen | jitted(start_params)

    def fresh() -> TrainState:
        if "adapter" in rl.groups:
            shapes = rl.state.params["adapter"]
            adapter = trained.new_adapter(setup.policy, shapes, config.seed, stage=0)
            start_params["adapter"] = adapter
        if "state_head" in rl.groups:
            shapes = rl.state.params["state_head"]
            head = trained.new_state_head(setup.policy, shapes, config.seed)
            start_params["state_head"] = head
        state = trained.new_state(dict(start_params), rl)
        start_params.clear()
        return state

    # 2. Build the programs of a step.
    context = _make_context(setup, rl, frozen, reference)
    frozen_digest = fingerprint(frozen)
    data = run_setup.iterator(setup, config.rl.prompts * config.rl.candidates, RL)
    if checkpoints.latest_step(setup.workdir.rl) is not None:
        start_params.clear()  # before the state is restored: the devices need not hold both
    # 3. Train.
    directory, last = setup.workdir.rl, config.rl.steps
    with stage.start(setup, RL, last, directory, data, rl.state, fresh) as loop:
        _check_frozen(loop, frozen_digest)
        state = _run_steps(setup, loop, context, frozen_digest)
    return frozen | state.params


def _make_context(
    setup: Setup, rl: trained.Trained, frozen: Params, reference: Params | None
) -> rl_step.Context:
    config = setup.config
    settings = run_setup.rollout_settings(config, tokenizers.end_ids(setup.tokenizer))
    slots = run_setup.slots(config)
    return rl_step.Context(
        programs=rl_step.make_programs(
            setup.policy, rl.optimizer, config.rl, settings, rl.groups, setup.mesh, rl.state, slots
        ),
        config=config.rl,
        sampler=config.sampler,
        groups=rl.groups,
        dial=config.dial,
        denoiser_steps=config.denoiser_steps,
        seed=config.seed,
        mesh=setup.mesh,
        rows_per_prompt=settings.rows_per_prompt,
        network=run_setup.network(config, setup.policy.vocab),
        problems=grading.Problems(setup.task, setup.tokenizer, setup.task.examples("train")),
        frozen=frozen,
        reference=reference,
    )


def _run_steps(
    setup: Setup, loop: stage.Loop, context: rl_step.Context, frozen_digest: str
) -> TrainState:
    """The steps that are left, each followed by what is due: evaluation, samples, checkpoint."""
    config, state = setup.config, loop.state
    calls = loop.meta.get("calls", {"rollout": 0.0, "update": 0.0})
    guard = collapse_guard.from_meta(loop.meta.get("guard"))
    mixed, largest = loop.meta.get("mixed", {}), setup.task.reward_max
    _stop_if_guarded(setup, loop, guard.met, loop.first)
    if loop.first == 0:
        values = _validate(setup, loop, context.frozen | state.params, 0)
        guard, _ = collapse_guard.observe(guard, values, config.rl.guard, largest)
        loop.log(0, values, due=True)
    for number, batch in loop.steps():
        # 1. Train.
        with _profiled(setup, number), loop.explained(number):
            result = rl_step.run_step(context, state, batch, number, rate=guard.rate, mixed=mixed)
        state, values, mixed = result.state, result.values, result.mixed
        calls = {use: count + values[f"calls/{use}"] for use, count in calls.items()}
        values |= {f"calls/{use}": count for use, count in calls.items()}
        loop.check_finite(number, values)
        # 2. Write samples and evaluate, if due.
        if config.logging.samples_every and number % config.logging.samples_every == 0:
            rows = grading.sample_rows(result.graded, result.advantage, _SAMPLES)
            run_setup.write_samples(setup, f"rl-{number:06d}", rows)
        evaluated = bool(config.evaluation.every) and number % config.evaluation.every == 0
        if evaluated or number == loop.last:
            values |= _validate(setup, loop, context.frozen | state.params, number)
        # 3. Watch for collapse; log and save.
        met: dict[str, str] = {}
        # While the head by state learns alone, calls and accuracy move without any collapse.
        if number in context.denoiser_steps and context.programs.update is not None:
            guard, met = collapse_guard.observe(guard, values, config.rl.guard, largest)
        values |= {"rate": guard.rate} | {f"guard/{name}": 1.0 for name in met}
        loop.log(number, values, result.times, due=evaluated or bool(met))
        meta = {"calls": calls, "guard": collapse_guard.to_meta(guard), "mixed": mixed}
        loop.save(number, state, meta | {"frozen": frozen_digest}, due=bool(met))
        _stop_if_guarded(setup, loop, list(met.values()), number)
        for warning in met.values():
            loop.progress.say(f"warning: {RL} step {number}: {warning}.")
        loop.end_step(
            number, **{name: values[name] for name in (*_SHOWN, "gamma/p50") if name in values}
        )
    return state


def _validate(setup: Setup, loop: stage.Loop, params: Params, number: int) -> dict[str, float]:
    with loop.explained(number):
        values = frontiers.validate(setup, params)
    loop.check_finite(number, values)
    return values


def _profiled(setup: Setup, number: int) -> contextlib.AbstractContextManager[Any]:
    """Traces a step if it is in `config.logging.profile`; TensorBoard shows the trace."""
    if number not in setup.config.logging.profile:
        return contextlib.nullcontext()
    return jax.profiler.trace(setup.workdir.profile / f"step-{number:06d}")


def _check_frozen(loop: stage.Loop, frozen_digest: str) -> None:
    """Raises `UserError` if a resumed checkpoint was trained over other frozen parameters."""
    if loop.first and loop.meta.get("frozen", "") != frozen_digest:
        raise UserError(
            f"{loop.saved.directory}: step {loop.first} was trained from another base model: "
            "what config.init_from or config.model.weights names has changed. Restore it, or use a "
            "new --workdir."
        )


def _stop_if_guarded(setup: Setup, loop: stage.Loop, met: Sequence[str], number: int) -> None:
    """Raises `UserError` if these conditions are met and the guard is to stop the run."""
    if met and setup.config.rl.guard.action == "stop":
        loop.saved.wait()
        raise UserError(
            f"{RL} step {number}: stopped by config.rl.guard: {'; '.join(met)}. The step is saved "
            f"in {loop.saved.directory}; to go on all the same, start again with "
            "--config.rl.guard.action=warn."
        )
