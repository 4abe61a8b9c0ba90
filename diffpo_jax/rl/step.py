"""One RL step: prompts -> rollouts -> scores -> rewards -> updates.  `run_step` calls the parts."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from diffpo_jax.arrays import microbatch, rng
from diffpo_jax.arrays.types import Choices, Draws, Params, Prompts, Rollout, TrainState
from diffpo_jax.config import RLConfig, SamplerConfig
from diffpo_jax.data import tokenizers
from diffpo_jax.data.prompts import EncodedBatch
from diffpo_jax.diffusion import likelihood, sampler
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.distributed import chips, sharding
from diffpo_jax.evaluation import grading
from diffpo_jax.models import flops
from diffpo_jax.models.policy import Policy
from diffpo_jax.rl import (
    diagnostics,
    head_update,
    prompt_sampling,
    rewards,
    schedule_free,
    update,
)
from diffpo_jax.workdir import metrics as metrics_lib


class Programs(NamedTuple):
    """The jitted programs of a step."""

    generate: sampler.GenerateWithHidden  # hidden states are None if `score` does not use them
    generate_greedy: sampler.GenerateWithHidden  # the same with argmax tokens
    draw: Callable[..., Draws]
    score: Callable[..., jax.Array]
    old_selection: Callable[..., jax.Array]
    divergence: Callable[..., jax.Array]
    update: Callable[..., Any] | None  # None if the head by state alone is trained
    head_update: Callable[..., Any] | None  # None if there is none


class Context(NamedTuple):
    """What stays the same from step to step."""

    programs: Programs
    config: RLConfig
    sampler: SamplerConfig
    groups: tuple[str, ...]  # of parameters that are trained
    dial: float  # of the commit rule, used if thresholds and prices are not drawn: γ in nats
    denoiser_steps: range  # in the others the head by state learns alone
    seed: int
    mesh: Mesh
    rows_per_prompt: int  # consecutive rollouts that share a pass over the all-mask state
    network: flops.Network
    problems: grading.Problems  # the training split
    frozen: Params  # the parameters that are not trained
    reference: Params | None  # parameters of π̂_ref; None if config.objective.kl is 0


class Scores(NamedTuple):
    """What the inner updates compare with.  None, alone or in a list, means not needed."""

    draws: list[Draws | None]  # of each inner update
    old_log_probs: list[jax.Array | None]  # log π̂_old for each draw
    references: list[jax.Array | None]  # log π̂_ref for each draw
    sets: jax.Array | None  # log-probabilities of the committed sets under θ_old
    divergence: jax.Array | None  # [B], KL of each sequence to the reference, as a price


class StepResult(NamedTuple):
    """What a step gives."""

    state: TrainState
    values: dict[str, float]  # metrics
    times: dict[str, float]  # seconds by part, and rates
    mixed: prompt_sampling.Mixed  # for the choice of the next prompts
    graded: grading.Graded
    advantage: np.ndarray  # [B]


def rows_per_prompt(config: RLConfig, devices: int) -> int:
    """Consecutive rollouts of a prompt that share a pass over its all-mask state.

    The largest part of a group that stays whole: in every micro-batch, and on every device, so that
    the devices share the passes evenly.
    """
    rows = config.prompts * config.group
    return microbatch.rows_together(config.group, (rows, config.micro_batch or rows), devices)


def make_programs(
    policy: Policy,
    optimizer: optax.GradientTransformation | update.HeadAndOthers,
    config: RLConfig,
    settings: SamplerSettings,
    groups: tuple[str, ...],
    mesh: Mesh,
    state: TrainState,
    slots: int | None,
) -> Programs:
    """Builds and jits what a step runs on the devices.

    Args:
      settings: of the sampler of rollouts.
      groups: of parameters that are trained.
      state: arrays or shapes, for the shardings of an update's result.
      slots: of each device's continuous batch in rollouts; None for a static batch.
    """
    threshold = "drawn" if "threshold" in groups else "fixed"
    threshold = "price" if update.HEAD in groups else threshold
    batch = sharding.batch_sharding(mesh)
    micro = config.micro_batch

    def draw(key, rollout, prompts):
        own = config.likelihood
        return likelihood.draw(key, rollout, prompts, own, config.group, policy)

    # θ_old scores from the second update on, or for a KL in the reward.
    scored = config.inner_updates > 1 or (
        config.objective.kl and config.objective.kl_in == "reward"
    )
    reusable = config.likelihood.reuses_first_call and policy.attention_block is None
    keeps_hidden = scored and update.trains_tokens(groups) and reusable

    def make_generate(temperature: float) -> sampler.GenerateWithHidden:
        sampled = sampler.make_generate_with_hidden(
            policy,
            settings._replace(temperature=temperature),
            threshold=threshold,
            slots=slots,
            mesh=mesh,
        )

        def generate(params, prompts, dial, keys):
            rollout, hidden = sampled(params, prompts, dial, keys)
            return rollout, hidden if keeps_hidden else None

        return jax.jit(generate, out_shardings=batch)

    score = update.make_score(policy, config.likelihood, settings, micro)
    old_selection = update.make_old_selection(policy, settings)
    divergence = update.make_divergence(config.objective, settings)
    learn = learn_head = None
    others = update.without_head(state)
    if update.HEAD in groups:
        learn_head = jax.jit(
            head_update.make_head_update(
                policy,
                optimizer.head,
                config.head,
                group=config.group,
                block_length=settings.block_length,
                place=lambda tree: jax.lax.with_sharding_constraint(tree, batch),
            ),
            donate_argnums=(0, 1),
            out_shardings=sharding.replicated(mesh),
        )
        optimizer = optimizer.others
    if optimizer is not None:
        learn = jax.jit(
            update.make_update(
                policy,
                optimizer,
                config.likelihood,
                config.objective,
                groups=tuple(name for name in groups if name != update.HEAD),
                settings=settings,
                micro_batch=micro,
            ),
            donate_argnums=0,
            out_shardings=(sharding.shardings(others, mesh), sharding.replicated(mesh)),
        )
    return Programs(
        generate=make_generate(settings.temperature),
        generate_greedy=make_generate(0.0),
        draw=jax.jit(draw, out_shardings=batch),
        score=jax.jit(score, out_shardings=batch),
        old_selection=jax.jit(old_selection, out_shardings=batch),
        divergence=jax.jit(divergence, out_shardings=batch),
        update=learn,
        head_update=learn_head,
    )


def run_step(
    context: Context,
    state: TrainState,
    candidates: EncodedBatch,
    number: int,
    *,
    rate: float,
    mixed: prompt_sampling.Mixed,
) -> StepResult:
    """Takes one RL step.

    Args:
      candidates: encoded prompts to choose from, `config.candidates` times as many as are used.
      number: of the step; with the seed it decides everything random.
      rate: factor on the learning rates.
      mixed: what earlier steps showed of each difficulty, see `prompt_sampling`.
    """
    config, group = context.config, context.config.group
    # 1. Choose the prompts, and repeat each for its group of rollouts.
    encoded = choose_prompts(context, candidates, number, mixed)
    repeated = jax.tree.map(lambda x: np.repeat(x, group, axis=0), encoded)
    # 2. Make rollouts with the true sampler.
    clock = _Clock()
    learns = context.programs.update is not None and number in context.denoiser_steps
    params = rollout_params(context, state, learns)
    prices = draw_prices(context, number)
    prompts, rollout, hidden = sample_rollouts(context, params, repeated, number, prices)
    choices, rollout = rollout.choices, rollout._replace(choices=None)
    on_host = sharding.to_host(rollout)
    clock.lap("rollout")
    # 3. Score them under θ_old and the reference.  The devices do so while the host grades.
    nothing = Scores([], [], [], None, None)
    scores = (
        score_rollouts(context, params, prompts, rollout, number, hidden) if learns else nothing
    )
    clock.lap("score")
    # 4. Grade the texts; add the prices; compare within groups.
    graded = context.problems.grade(on_host, repeated.index)
    clock.lap("grade")
    jax.block_until_ready(scores)
    clock.lap("score")  # only what grading did not cover
    divergence = None if scores.divergence is None else sharding.to_host(scores.divergence)
    length = context.sampler.length
    price = None if prices is None else prices * context.problems.task.reward_max
    reward = rewards.priced_rewards(graded.total, on_host.nfe, divergence, length, config, price)
    ends = tokenizers.end_ids(context.problems.tokenizer)
    speed = on_host.sampled.sum(axis=1) / on_host.nfe
    left_out = rewards.left_out(on_host.tokens, on_host.forced, graded.total, speed, ends, config)
    advantage = rewards.rollout_advantages(
        reward, graded.total, on_host.nfe, speed, left_out, length, config
    )
    right = rewards.raised(graded.correct, left_out, config)
    clock.lap("grade")
    # 5. Make the inner updates.
    state, metrics = update_head(context, state, rollout, choices, graded.total, number, rate)
    if learns:
        others, more = inner_updates(
            context, update.without_head(state), prompts, rollout, advantage, right, scores, rate
        )
        state, metrics = update.with_head(state, others), metrics | more
    clock.lap("update")
    # 6. Collect metrics.
    if divergence is not None:
        metrics["kl/reward"] = (divergence.sum(), divergence.size)
    mixed = prompt_sampling.observe(
        mixed, context.problems.difficulty(encoded.index), graded.correct.reshape(-1, group)
    )
    values = _step_values(context, graded, reward, metrics, learns)
    times = clock.laps | step_rates(context, on_host, clock.laps, learns=learns)
    return StepResult(state, values, times, mixed, graded, advantage)


def draw_prices(context: Context, number: int) -> np.ndarray | None:
    """λ of each rollout, the same within a group; None if no head by state reads it."""
    if update.HEAD not in context.groups:
        return None
    config = context.config
    prices = rewards.draw_prices(config.speed, config.prompts, context.seed, number)
    return np.repeat(prices, config.group)


def choose_prompts(
    context: Context, candidates: EncodedBatch, number: int, mixed: prompt_sampling.Mixed
) -> EncodedBatch:
    """The prompts of a step: all candidates, or a draw from them."""
    if context.config.candidates == 1:
        return candidates
    generator = np.random.default_rng((context.seed, number))  # the same on every host
    difficulty = context.problems.difficulty(candidates.index)
    chosen = prompt_sampling.choose(difficulty, context.config.prompts, mixed, generator)
    return jax.tree.map(lambda x: x[chosen], candidates)


def rollout_params(context: Context, state: TrainState, learns: bool) -> Params:
    """All parameters that make the rollouts of a step, and score them as the old policy.

    Args:
      learns: whether a gradient of the denoiser follows, which must be at the parameters that made
        the rollouts. The head by state alone learns on the model that is evaluated.
    """
    own = schedule_free.gradient_params(state) if learns else state.params
    return context.frozen | own


def sample_rollouts(
    context: Context,
    params: Params,
    encoded: EncodedBatch,
    number: int,
    prices: np.ndarray | None = None,
) -> tuple[Prompts, Rollout, jax.Array | None]:
    """A rollout of every prompt, each row with its own key from (seed, step, row).

    Args:
      prices: λ of each row, for the head by state.

    Returns also the hidden states of the first call, if the old policy's score uses them.
    """
    prompts = sharding.place_batch(Prompts(encoded.tokens, encoded.mask), context.mesh)
    rows = jnp.arange(encoded.index.shape[0])
    keys = rng.row_keys(rng.key_for(context.seed, "rollout", number), rows)
    dial = jnp.float32(context.dial)
    if prices is not None:
        dial = sharding.place_batch(prices, context.mesh)
    # At the end the head is to see what it will see in use.
    settled = number >= context.denoiser_steps.stop and context.programs.update is not None
    programs = context.programs
    generate = programs.generate_greedy if settled else programs.generate
    return prompts, *generate(params, prompts, dial, keys)


def score_rollouts(
    context: Context,
    params: Params,
    prompts: Prompts,
    rollout: Rollout,
    number: int,
    hidden: jax.Array | None = None,
) -> Scores:
    """Everything that is computed at θ_old, and of the reference, for all inner updates.

    Args:
      hidden: what `sample_rollouts` returned besides the rollouts.
    """
    programs, objective = context.programs, context.config.objective
    mu = context.config.inner_updates
    draws, old_log_probs, references, divergence = [None] * mu, [None] * mu, [None] * mu, None
    if update.trains_tokens(context.groups):
        key = rng.key_for(context.seed, "draws", number)
        draws = [programs.draw(jax.random.fold_in(key, i), rollout, prompts) for i in range(mu)]
        priced = context.reference is not None and objective.kl_in == "reward"
        # The first update is at θ_old itself and takes its own values.
        first = 0 if priced else 1
        old_log_probs[first:] = [
            programs.score(params, prompts, rollout, d, hidden) for d in draws[first:]
        ]
        if priced:
            compared = programs.score(context.reference, prompts, rollout, draws[0])
            divergence = programs.divergence(old_log_probs[0], compared, rollout)
            old_log_probs[0] = None
        elif context.reference is not None:
            references = [programs.score(context.reference, prompts, rollout, d) for d in draws]
    exact = objective.selection == "exact"
    sets = programs.old_selection(params, rollout) if exact else None
    return Scores(draws, old_log_probs, references, sets, divergence)


def update_head(
    context: Context,
    state: TrainState,
    rollout: Rollout,
    choices: Choices | None,
    task_reward: np.ndarray,
    number: int,
    rate: float,
) -> tuple[TrainState, dict[str, Any]]:
    """The updates of the head by state on the rollouts of a step, if there is one.

    Args:
      choices: the rollouts' record of what the head saw and did.
      task_reward: [B], without any price.

    Returns:
      The state, and metrics as (sum, count).
    """
    if update.HEAD not in context.groups:
        return state, {}
    share = np.clip(task_reward / context.problems.task.reward_max, 0.0, 1.0)
    placed = sharding.place_batch(share.astype(np.float32), context.mesh)
    key = rng.key_for(context.seed, "head_update", number)
    whole = rollout._replace(choices=choices)
    head, own, metrics = context.programs.head_update(
        state.params[update.HEAD],
        state.opt_state[update.HEAD],
        whole,
        placed,
        key,
        jnp.float32(rate),
    )
    params = state.params | {update.HEAD: head}
    new = TrainState(state.step + 1, params, state.opt_state | {update.HEAD: own})
    return new, jax.device_get(metrics)


def inner_updates(
    context: Context,
    state: TrainState,
    prompts: Prompts,
    rollout: Rollout,
    advantage: np.ndarray,
    right: np.ndarray | None,
    scores: Scores,
    rate: float,
) -> tuple[TrainState, dict[str, Any]]:
    """The μ updates on the rollouts of a step, of all but the head by state.

    Args:
      right: [B], rollouts whose likelihood is raised; None without such a term.

    Returns:
      The state, and metrics as (sum, count): of the surrogate from the first update, where θ is
      θ_old, of the clip from the last.
    """
    placed, right = sharding.place_batch((advantage, right), context.mesh)
    metrics: dict[str, Any] = {}
    for draws, old, reference in zip(scores.draws, scores.old_log_probs, scores.references):
        batch = update.Batch(prompts, rollout, placed, draws, old, reference, scores.sets, right)
        state, new = context.programs.update(state, context.frozen, batch, jnp.float32(rate))
        metrics |= jax.device_get(new)
    return state, metrics


def _step_values(
    context: Context,
    graded: grading.Graded,
    reward: np.ndarray,
    metrics: dict[str, Any],
    learns: bool,
) -> dict[str, float]:
    """The metrics of a step as numbers.

    Args:
      learns: whether more than the head by state was trained.
    """
    equal = rewards.equal_groups(reward, context.config.group)
    mixed = prompt_sampling.are_mixed(graded.correct.reshape(-1, context.config.group))
    metrics = grading.metrics_of(graded) | metrics
    metrics["reward"] = (reward.sum(), reward.size)
    metrics["groups/equal"] = (equal.sum(), equal.size)
    metrics["groups/mixed"] = (mixed.sum(), mixed.size)
    dial = "price" if update.HEAD in context.groups else "gamma"
    values = metrics_lib.means(metrics) | grading.percentiles(graded, dial)
    values = diagnostics.derived(values, context.problems.task.reward_max)
    nfe = graded.rollout.nfe
    values["calls/rollout"] = float(np.sum(nfe))
    # States that each rollout is scored in, whatever passes are shared, as NFE counts its calls;
    # a gradient counts as one.
    values["calls/update"] = float(nfe.size * sum(_passes(context, nfe, None, learns)[:2]))
    return values


def _passes(
    context: Context, nfe: np.ndarray, rows_per_prompt: int | None, learns: bool
) -> flops.Passes:
    if not learns or not update.trains_tokens(context.groups):
        return flops.Passes(0.0, 0.0)
    compared = context.reference is not None
    block = context.network.model.attention_block
    return flops.update_passes(nfe, context.config, rows_per_prompt, compared=compared, block=block)


def step_rates(
    context: Context, rollout: Rollout, laps: dict[str, float], *, learns: bool
) -> dict[str, float]:
    """Rates of the rollouts by themselves, and of the whole step without evaluations."""
    tokens, rows = int(rollout.sampled.sum()), rollout.nfe.size
    network, sampler_config, size = context.network, context.sampler, context.rows_per_prompt
    rolled = flops.rollout_flops(network, sampler_config, rollout.commit_call, rollout.nfe, size)
    passes, whole = _passes(context, rollout.nfe, size, learns), "denoiser" in context.groups
    updated = rows * flops.update_flops(network, sampler_config, passes, whole=whole)
    mesh = context.mesh
    peak = chips.peak(mesh.devices.flat[0].device_kind)
    return {
        "tokens_per_second": tokens / laps["rollout"],
        "calls_per_second": float(rollout.nfe.sum()) / laps["rollout"],
    } | flops.throughput(rolled + updated, tokens, sum(laps.values()), mesh.size, peak)


class _Clock:
    """Seconds by part of a step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Adds the time since the last lap to a part."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now
