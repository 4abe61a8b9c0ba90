"""The RL loop.  One step:

1. prompts, all at hand or some (`focus`), each repeated G times, a key per row from
   (seed, step, row);
2. rollouts by the true sampler, one jitted loop;
3. a draw of anchors and prompt masks for each of the μ inner updates, and the old (and reference)
   log-probabilities for it; the devices work on them while the host does the next;
4. texts and rewards, the price of calls, advantages by group;
5. μ inner updates;
6. metrics, samples, the guard, an evaluation and a checkpoint where they are due.
"""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Draws, Params, Prompts, TrainState
from diffpo_jax.config import LoggingConfig, RLConfig, SamplerConfig
from diffpo_jax.data import tokenizers
from diffpo_jax.data.prompts import EncodedBatch
from diffpo_jax.diffusion import likelihood
from diffpo_jax.diffusion import sampler as generate
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.distributed import chips, preemption, sharding
from diffpo_jax.evaluation import grading
from diffpo_jax.models.flops import Network
from diffpo_jax.models.policy import Policy
from diffpo_jax.rl import collapse_guard, diagnostics, prompt_sampling, update, work
from diffpo_jax.rl import rewards as advantages
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.progress import Progress
from diffpo_jax.tasks.task import Example, Task
from diffpo_jax.workdir import metrics as metrics_lib
from diffpo_jax.workdir.checkpoints import Checkpoints

STAGE = "rl"


class Programs(NamedTuple):
    """The jitted programs of a step."""

    generate: generate.Generate
    draw: Callable[..., Any]
    score: Callable[..., Any]
    old_selection: Callable[..., Any]
    divergence: Callable[..., Any]
    update: Callable[..., Any]


def make_programs(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    config: RLConfig,
    settings: SamplerSettings,
    groups: tuple[str, ...],
    mesh: Mesh,
    state: TrainState,
    slots: int,
) -> Programs:
    """Builds and jits what a step runs on the devices.

    Args:
      settings: of the sampler of rollouts.
      groups: of parameters that are trained.
      state: arrays or shapes, for the shardings of the result of an update.
      slots: rows in flight in rollouts, 0 for a static batch.
    """
    threshold = "drawn" if "threshold" in groups else "fixed"
    batch = sharding.batch_sharding(mesh)
    micro = config.micro_batch

    def draw(key, rollout, prompts):
        return likelihood.draw(
            key,
            rollout,
            prompts,
            anchors=config.likelihood.anchors,
            prompt_masking=config.likelihood.prompt_masking,
            schedule=config.likelihood.schedule,
            calls=config.likelihood.calls,
        )

    step = update.make_update(
        policy,
        optimizer,
        config.likelihood,
        config.objective,
        groups=groups,
        settings=settings,
        micro_batch=micro,
    )
    return Programs(
        generate=jax.jit(
            generate.make_generate(policy, settings, threshold=threshold, slots=slots),
            out_shardings=batch,
        ),
        draw=jax.jit(draw, out_shardings=batch),
        score=jax.jit(
            update.make_score(policy, config.likelihood, settings, micro), out_shardings=batch
        ),
        old_selection=jax.jit(update.make_old_selection(policy, settings), out_shardings=batch),
        divergence=jax.jit(update.make_divergence(config.objective, settings), out_shardings=batch),
        update=jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(sharding.shardings(state, mesh), sharding.replicated(mesh)),
        ),
    )


class Scores(NamedTuple):
    """What the inner updates compare with; None, or a list of None: not needed."""

    draws: list[Draws | None]  # of each inner update
    olds: list[jax.Array | None]  # log π̂_old for each draw
    references: list[jax.Array | None]  # log π̂_ref for each draw
    sets: jax.Array | None  # log-probability of the sets, under θ_old
    divergence: jax.Array | None  # KL to the reference of each sequence, where rewards pay for it


class Trainer(NamedTuple):
    """What the loop needs; `evaluate(params)` gives metrics of the validation split."""

    programs: Programs
    config: RLConfig
    sampler: SamplerConfig
    logging: LoggingConfig
    groups: tuple[str, ...]  # of parameters that are trained
    frozen: Params  # the others
    fingerprint: str  # of those, kept with each checkpoint
    dial: float  # of the commit rule where it is not drawn: γ in nats
    seed: int
    mesh: Mesh
    network: Network  # its sizes
    task: Task
    tokenizer: Any
    examples: Sequence[Example]
    reference: Params | None  # parameters of π̂_ref; None where config.objective.kl is 0
    evaluate: Callable[[Params], dict[str, float]]
    evaluate_every: int
    write_samples: Callable[[int, list[dict[str, Any]]], None]
    profile: pathlib.Path  # where traces of steps go

    def run(
        self,
        state: TrainState,
        iterator: Any,
        checkpoints: Checkpoints,
        writer: metrics_lib.MetricsWriter,
        *,
        start: int,
        meta: dict[str, Any],
    ) -> TrainState:
        """Trains from step `start` to the last.

        Args:
          state, iterator: at step `start`.
          meta: of the checkpoint of step `start`; empty at the beginning.

        Raises:
          UserError: objective or gradient not finite; the guard stopped the run; a checkpoint
            could not be written.
          Stopped: after SIGTERM, with the step saved.
        """
        steps = self.config.steps
        calls = meta.get("calls", {"rollout": 0.0, "update": 0.0})
        guard = collapse_guard.from_meta(meta.get("guard"))
        mixed = meta.get("mixed", {})
        self._stop_if_guarded(guard.met, start, checkpoints)
        with Progress(STAGE, steps, initial=start) as progress, preemption.Notice() as notice:
            written = time.perf_counter()

            def write(number: int, values: dict[str, float], times: dict[str, float]) -> None:
                nonlocal written
                now = time.perf_counter()
                # Since the line before: the lines' seconds add up to the stage's.
                writer.write(STAGE, number, values, times | {"seconds": now - written})
                written = now

            if start == 0:
                values = self.evaluate(self.frozen | state.params)
                guard, _ = collapse_guard.look(guard, values, self.config.guard)
                write(0, values, {})
            for number in range(start + 1, steps + 1):
                encoded = self._chosen(next(iterator), number, mixed)
                with self._traced(number):
                    state, values, times, mixed = self._step(
                        state, encoded, number, guard.rate, mixed
                    )
                calls = {
                    "rollout": calls["rollout"] + values["calls/rollout"],
                    "update": calls["update"] + values["calls/update"],
                }
                values |= {f"calls/{use}": count for use, count in calls.items()}
                self._stop_if_not_finite(values, number, checkpoints)
                due = self.evaluate_every and number % self.evaluate_every == 0
                if due or number == steps:
                    values |= self.evaluate(self.frozen | state.params)
                guard, met = collapse_guard.look(guard, values, self.config.guard)
                values["rate"] = guard.rate
                if due or number % self.logging.every == 0 or number == steps or met:
                    write(number, values | {f"guard/{name}": 1.0 for name in met}, times)
                state_of_run = {
                    "calls": calls,
                    "guard": collapse_guard.to_meta(guard),
                    "mixed": mixed,
                }
                state_of_run["frozen"] = self.fingerprint
                told = notice.given()
                checkpoints.save(number, state, iterator, state_of_run, due=bool(met) or told)
                self._stop_if_guarded(list(met.values()), number, checkpoints)
                if told:
                    preemption.stop(STAGE, number, checkpoints)
                for seen in met.values():
                    progress.say(f"warning: RL step {number}: {seen}.")
                shown = ("reward", "accuracy", "nfe", "gamma/p50")
                progress.update(**{name: values[name] for name in shown})
            checkpoints.wait()  # while SIGTERM is still heeded
        return state

    def _traced(self, number: int) -> contextlib.AbstractContextManager[Any]:
        """Traces a step where that was asked for; TensorBoard's profile plugin shows it."""
        if number not in self.logging.profile:
            return contextlib.nullcontext()
        return jax.profiler.trace(self.profile / f"step-{number:06d}")

    def _chosen(
        self, encoded: EncodedBatch, number: int, mixed: prompt_sampling.Mixed
    ) -> EncodedBatch:
        """The prompts of a step, of those at hand."""
        if self.config.candidates == 1:
            return encoded
        draw = np.random.default_rng((self.seed, number))  # the same on every host
        taken = prompt_sampling.choose(
            self._difficulty(encoded.index), self.config.prompts, mixed, draw
        )
        return jax.tree.map(lambda x: x[taken], encoded)

    def _difficulty(self, index: np.ndarray) -> np.ndarray:
        return np.array([self.task.difficulty(self.examples[i]) for i in index.tolist()])

    def _step(
        self,
        state: TrainState,
        encoded: EncodedBatch,
        number: int,
        rate: float,
        mixed: prompt_sampling.Mixed,
    ) -> tuple[TrainState, dict[str, float], dict[str, float], prompt_sampling.Mixed]:
        clock = _Clock()
        group = self.config.group
        repeated = jax.tree.map(lambda x: np.repeat(x, group, axis=0), encoded)
        prompts = sharding.place_batch(Prompts(repeated.tokens, repeated.mask), self.mesh)
        rows = repeated.index.shape[0]
        keys = rng.row_keys(rng.key_for(self.seed, "rollout", number), jnp.arange(rows))
        params = self.frozen | state.params
        rollout = self.programs.generate(params, prompts, jnp.float32(self.dial), keys)
        on_host = sharding.to_host(rollout)
        clock.lap("rollout")

        scores = self._scores(params, prompts, rollout, number)
        clock.lap("score")
        examples = [self.examples[i] for i in repeated.index.tolist()]
        graded = grading.grade(on_host, examples, self.task, self.tokenizer)
        clock.lap("grade")
        jax.block_until_ready(scores)
        clock.lap("score")  # what of it the grading did not cover
        rewards = self._rewards(graded, scores)
        advantage = self._advantages(graded, rewards)
        clock.lap("grade")

        state, of_update = self._updates(state, prompts, rollout, advantage, scores, rate)
        clock.lap("update")
        if self.logging.samples_every and number % self.logging.samples_every == 0:
            self.write_samples(number, grading.sample_rows(graded, advantage, 64))

        equal = advantages.equal_groups(rewards, group)
        metrics = grading.metrics_of(graded) | of_update
        metrics["reward"] = (rewards.sum(), rows)
        metrics["groups/equal"] = (equal.sum(), equal.size)
        correct = graded.correct.reshape(-1, group)
        mixed = prompt_sampling.learned(mixed, self._difficulty(encoded.index), correct)
        are_mixed = prompt_sampling.are_mixed(correct)
        metrics["groups/mixed"] = (are_mixed.sum(), are_mixed.size)
        values = metrics_lib.means(metrics) | grading.percentiles(graded)
        values = diagnostics.derived(values, self.task.reward_max)
        values["calls/rollout"] = float(np.sum(on_host.nfe))
        passes = self._passes(on_host.nfe)
        values["calls/update"] = float(rows * sum(passes))  # a gradient counts as one
        times = clock.laps | self._rates(on_host, passes, clock.laps)
        return state, values, times, mixed

    def _rewards(self, graded: grading.Graded, scores: Scores) -> np.ndarray:
        """Rewards with their prices: of calls, and of leaving the reference where that is one."""
        speed = self.config.speed
        rewards = advantages.speed_reward(
            graded.total, graded.rollout.nfe, self.sampler.length, speed.weight, speed.form
        )
        if scores.divergence is None:
            return rewards
        price = sharding.to_host(scores.divergence).astype(np.float64)
        return rewards - self.config.objective.kl * price

    def _advantages(self, graded: grading.Graded, rewards: np.ndarray) -> np.ndarray:
        """Advantages of the rollouts, 0 where they are to teach nothing."""
        objective, group, rollout = self.config.objective, self.config.group, graded.rollout
        if objective.advantage == "decoupled":
            nfe, weight = rollout.nfe, self.config.speed.weight
            advantage = advantages.decoupled(graded.total, nfe, self.sampler.length, weight, group)
        else:
            advantage = advantages.advantages(rewards, group, objective.advantage)
        if objective.drop_forced:
            advantage = np.where(rollout.forced, 0, advantage)
        if objective.drop_unended:
            ended = np.isin(rollout.tokens, tokenizers.end_ids(self.tokenizer)).any(axis=1)
            advantage = np.where(ended, advantage, 0)
        return advantage

    def _scores(self, params: Params, prompts: Prompts, rollout: Any, number: int) -> Scores:
        """Everything that is taken at θ_old, for all inner updates."""
        mu, objective, programs = self.config.inner_updates, self.config.objective, self.programs
        draws, olds, references, divergence = [None] * mu, [None] * mu, [None] * mu, None
        if update.trains_tokens(self.groups):
            key = rng.key_for(self.seed, "draws", number)
            draws = [programs.draw(jax.random.fold_in(key, i), rollout, prompts) for i in range(mu)]
            priced = self.reference is not None and objective.kl_in == "reward"
            # The first update is at θ_old itself and takes its own values.
            first = 0 if priced else 1
            olds[first:] = [programs.score(params, prompts, rollout, d) for d in draws[first:]]
            if priced:
                of_reference = programs.score(self.reference, prompts, rollout, draws[0])
                divergence = programs.divergence(olds[0], of_reference, rollout)
                olds[0] = None
            elif self.reference is not None:
                references = [programs.score(self.reference, prompts, rollout, d) for d in draws]
        exact = objective.selection == "exact"
        sets = programs.old_selection(params, rollout) if exact else None
        return Scores(draws, olds, references, sets, divergence)

    def _updates(
        self,
        state: TrainState,
        prompts: Prompts,
        rollout: Any,
        advantage: np.ndarray,
        scores: Scores,
        rate: float,
    ) -> tuple[TrainState, dict[str, Any]]:
        """μ inner updates; metrics of the surrogate from the first, of the clip from the last."""
        placed = sharding.place_batch(advantage, self.mesh)
        metrics: dict[str, Any] = {}
        for draws, old, reference in zip(scores.draws, scores.olds, scores.references):
            batch = update.Batch(prompts, rollout, placed, draws, old, reference, scores.sets)
            state, of_update = self.programs.update(state, self.frozen, batch, jnp.float32(rate))
            metrics |= jax.device_get(of_update)
        if scores.divergence is not None:
            price = sharding.to_host(scores.divergence)
            metrics["kl/reward"] = (price.sum(), price.size)
        return state, metrics

    def _passes(self, nfe: np.ndarray) -> work.Passes:
        if not update.trains_tokens(self.groups):
            return work.Passes(0.0, 0.0)
        return work.passes(nfe, self.config, compared=self.reference is not None)

    def _rates(self, rollout: Any, passes: work.Passes, laps: dict[str, float]) -> dict[str, float]:
        """Of the rollouts by themselves, and of the whole step, evaluations left out."""
        tokens, whole = int(rollout.sampled.sum()), "denoiser" in self.groups
        of_rollouts = work.of_rollouts(self.network, self.sampler, rollout.commit_call, rollout.nfe)
        of_updates = rollout.nfe.size * work.of_updates(
            self.network, self.sampler, passes, whole=whole
        )
        peak = chips.peak(self.mesh.devices.flat[0].device_kind)
        return {
            "tokens_per_second": tokens / laps["rollout"],
            "calls_per_second": float(rollout.nfe.sum()) / laps["rollout"],
        } | work.rates(of_rollouts + of_updates, tokens, sum(laps.values()), self.mesh.size, peak)

    def _stop_if_guarded(self, met: Sequence[str], number: int, checkpoints: Checkpoints) -> None:
        """Raises `UserError` where the guard is to stop a run that met these conditions."""
        if met and self.config.guard.action == "stop":
            checkpoints.wait()
            raise UserError(
                f"RL step {number}: stopped by config.rl.guard: {'; '.join(met)}. The step is "
                f"saved in {checkpoints.directory}; to go on all the same, start again with "
                "--config.rl.guard.action=warn."
            )

    def _stop_if_not_finite(
        self, values: dict[str, float], number: int, checkpoints: Checkpoints
    ) -> None:
        watched = ("objective", "grad_norm/", "update_ratio/")
        names = [name for name in values if name.startswith(watched)]
        bad = [f"{name}={values[name]}" for name in names if not math.isfinite(values[name])]
        if bad:
            raise UserError(
                f"RL step {number}: {', '.join(bad)}; stopped, nothing of this step was saved. "
                f"Last good checkpoint: step {checkpoints.latest()} of {checkpoints.directory}."
            )


class _Clock:
    """Seconds by part of a step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """The time since the last lap is that part's, beside what it has already."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now
