"""One optimiser update: sharded, micro-batched, one jitted program.

1. Split the batch into micro-batches, each spread over all devices.
2. For each: surrogate log-likelihoods, objective, gradient of the sum over its sequences.
3. Divide once by the number of sequences; apply the optimiser.
4. Keep the old state if no sequence has an advantage and none's likelihood is raised.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.arrays import microbatch
from diffpo_jax.arrays.masked import pair
from diffpo_jax.arrays.types import Draws, Metrics, Params, Prompts, Rollout, TrainState
from diffpo_jax.config import LikelihoodConfig, ObjectiveConfig
from diffpo_jax.diffusion import commit_likelihood, likelihood, thresholds
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.models.policy import Policy
from diffpo_jax.rl import diagnostics, objective, schedule_free

HEAD = "state_head"  # the group of parameters that `head_update` trains


class HeadAndOthers(NamedTuple):
    """The optimisers of a run that trains the head by state, which takes steps of its own."""

    head: optax.GradientTransformation
    others: optax.GradientTransformation | None  # None if nothing else is trained

    def init(self, params: Params) -> dict[str, Any]:
        """The state of both, by name."""
        rest = {name: x for name, x in params.items() if name != HEAD}
        own = {HEAD: self.head.init(params[HEAD])}
        return own | ({"others": self.others.init(rest)} if self.others else {})


class Batch(NamedTuple):
    """What one update learns from.  None means not needed (see `make_update`)."""

    prompts: Prompts
    rollout: Rollout
    advantage: Float[Array, "B"]
    draws: Draws | None
    old: Float[Array, "B L"] | None  # log π̂_old for these draws
    reference: Float[Array, "B L"] | None  # log π̂_ref for these draws
    old_selection: Float[Array, "B N"] | None = None  # log P_old of each call's set
    right: Bool[Array, "B"] | None = None  # rollouts whose likelihood is raised
    mean_tokens: Float[Array, "B"] | None = None  # counted tokens per sequence of the batch
    right_tokens: Float[Array, "B"] | None = None  # those of right rollouts, per sequence as well


Term = tuple[Float[Array, "B"], Metrics]  # a term of J for each sequence, and metrics


def init_state(
    params: Params, optimizer: optax.GradientTransformation | HeadAndOthers
) -> TrainState:
    """Returns the state at step 0 of the trained groups of parameters."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def without_head(state: TrainState) -> TrainState:
    """The state of what is trained besides the head by state."""
    if HEAD not in state.params:
        return state
    others = {name: x for name, x in state.params.items() if name != HEAD}
    return TrainState(state.step, others, state.opt_state.get("others"))


def with_head(state: TrainState, others: TrainState) -> TrainState:
    """A state with the parameters and the optimiser of `without_head` replaced."""
    if HEAD not in state.params:
        return others
    params = others.params | {HEAD: state.params[HEAD]}
    own = state.opt_state | ({"others": others.opt_state} if others.params else {})
    return TrainState(others.step, params, own)


def make_score(
    policy: Policy, config: LikelihoodConfig, settings: SamplerSettings, micro_batch: int | None
) -> Callable[..., Float[Array, "B L"]]:
    """Builds score(params, prompts, rollout, draws, hidden=None) -> log π̂ of every token [B L].

    `hidden` are the states of the sampler's first call [U L D] under these parameters, if
    `config.reuses_first_call`.
    """
    size = settings.rows_per_prompt

    def score(
        params: Params, prompts: Prompts, rollout: Rollout, draws: Draws, hidden: Any = None
    ) -> Array:
        def score_part(part):
            rows, hidden = part
            log_p = likelihood.anchored_log_prob(
                policy, params, *microbatch.unfold(rows), config, settings, hidden
            )
            return microbatch.fold(log_p, size)

        units = rollout.nfe.shape[0] // size
        each = micro_batch // size if micro_batch else units
        order = _order(rollout, size, each)
        batch = (microbatch.fold((prompts, rollout, draws), size), hidden)
        parts = microbatch.split(_take(batch, order), each)
        scores = microbatch.merge(jax.lax.map(score_part, parts))
        return microbatch.unfold(jnp.zeros_like(scores).at[order].set(scores))

    return score


def make_divergence(
    config: ObjectiveConfig, settings: SamplerSettings
) -> Callable[[Array, Array, Rollout], Float[Array, "B"]]:
    """Builds divergence(old, reference, rollout): each sequence's KL, a price in its reward."""

    def divergence(old: Array, reference: Array, rollout: Rollout) -> Array:
        counted = _counted(rollout, config, settings)
        return objective.sequence_kl(old, reference, counted, config.kl_estimator)

    return divergence


def make_old_selection(
    policy: Policy, settings: SamplerSettings
) -> Callable[[Params, Rollout], Float[Array, "B N"]]:
    """Builds old_selection(params, rollout) -> log P_old of each call's set, without any pass."""

    def old_selection(params: Params, rollout: Rollout) -> Array:
        lo, hi = commit_likelihood.recorded_bounds(rollout, settings)
        mu, sigma = policy.threshold(params, rollout.features)
        return commit_likelihood.log_selection(lo, hi, mu, sigma, settings.scope)

    return old_selection


def make_update(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    likelihood_config: LikelihoodConfig,
    config: ObjectiveConfig,
    *,
    groups: tuple[str, ...],
    settings: SamplerSettings,
    micro_batch: int | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds update(state, frozen, batch, rate=1) -> (state, metrics), to be jitted.

    `state` has the trained groups and may be donated; `frozen` has the others.  `rate` is a factor
    on the learning rates.

    `batch.old` is None in the first update on these rollouts: θ is θ_old then, and the old
    log-probabilities are the new ones without a gradient.  `batch.draws` is None if no token is
    trained (mode "sampler"), `batch.reference` if there is no KL in the loss, and `batch.right` if
    `config.right_likelihood` is 0.

    Args:
      groups: keys of the trained parameters (`optimizer.trained_groups`).
      micro_batch: sequences at a time, None for all; divides B and is a multiple of
        `settings.rows_per_prompt`.
      settings: of the sampler; likelihoods are those of the distributions it drew from.
    """
    tokens_trained, size = trains_tokens(groups), settings.rows_per_prompt

    def loss(params: Params, batch: Batch) -> tuple[Array, Metrics]:
        value, metrics = jnp.zeros_like(batch.advantage), {}
        if tokens_trained:
            value, metrics = _token_term(policy, params, batch, likelihood_config, config, settings)
        if config.selection == "exact":
            term = _selection_term(policy, params, batch, config, settings, tokens_trained)
            value, metrics = value + term[0], metrics | term[1]
        elif "threshold" in groups and config.selection == "gamma_token":
            term = _threshold_term(policy, params, batch, config)
            value, metrics = value + term[0], metrics | term[1]
        metrics["objective"] = (jnp.sum(value), jnp.asarray(value.shape[0]))
        return -jnp.sum(value), metrics

    def update(
        state: TrainState, frozen: Params, batch: Batch, rate: Float[Array, ""] | float = 1.0
    ) -> tuple[TrainState, Metrics]:
        at = schedule_free.gradient_params(state)

        # Differentiates the trained groups only: a frozen denoiser costs no backward pass.
        def gradient(part: Batch) -> tuple[Params, Metrics]:
            return jax.grad(lambda p: loss(frozen | p, part), has_aux=True)(at)

        # 1. Order the rows for micro-batches.  The mean numbers of tokens are the whole batch's.
        rows, dtype = batch.advantage.shape[0], batch.advantage.dtype
        counted = _counted(batch.rollout, config, settings)
        batch = batch._replace(mean_tokens=jnp.full(rows, jnp.sum(counted) / rows, dtype))
        if batch.right is not None:
            right = jnp.sum(counted & batch.right[:, None])
            batch = batch._replace(right_tokens=jnp.full(rows, right / rows, dtype))
        # Rows with the same prompt stay together.
        each = (micro_batch or rows) // size
        order = _order(batch.rollout, size, each)
        # 2. Gradients, summed over micro-batches and divided once.
        total, metrics = microbatch.accumulate(
            lambda part: gradient(microbatch.unfold(part)),
            _take(microbatch.fold(batch, size), order),
            each,
        )
        grads = jax.tree.map(lambda g: g / rows, total)
        # 3. Apply the optimiser.
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: u * jnp.asarray(rate, u.dtype), updates)
        params = optax.apply_updates(state.params, updates)
        for name in groups:
            metrics[f"grad_norm/{name}"] = _single(optax.tree.norm(grads[name]))
            ratio = optax.tree.norm(updates[name]) / optax.tree.norm(state.params[name])
            metrics[f"update_ratio/{name}"] = _single(ratio)
        # 4. Without anything to learn keep the old state: momentum must not move the parameters.
        learn = jnp.any(batch.advantage != 0)
        if batch.right is not None:
            learn |= jnp.any(batch.right)
        new = TrainState(state.step + 1, params, opt_state)
        kept = state._replace(step=state.step + 1)
        state = jax.tree.map(lambda a, b: jnp.where(learn, a, b), new, kept)
        return state, metrics | {"skipped": _single(1.0 - learn)}

    return update


def trains_tokens(groups: tuple[str, ...]) -> bool:
    """Whether the trained groups include the denoiser or its adapter."""
    return "denoiser" in groups or "adapter" in groups


def _order(rollout: Rollout, size: int, each: int) -> Int[Array, "U"]:
    """An order of units of `size` rows that puts those with similar numbers of calls together.

    A micro-batch, of `each` units, makes as many passes as its longest row has calls.
    """
    longest = jnp.max(microbatch.fold(rollout.nfe, size), axis=1)
    return microbatch.group_similar(longest, each)


def _take(tree: Any, order: Int[Array, "B"]) -> Any:
    return jax.tree.map(lambda x: x[order], tree)


def _token_term(
    policy: Policy,
    params: Params,
    batch: Batch,
    likelihood_config: LikelihoodConfig,
    config: ObjectiveConfig,
    settings: SamplerSettings,
) -> Term:
    """The token term of J and its metrics."""
    rollout, draws = batch.rollout, batch.draws
    new = likelihood.anchored_log_prob(
        policy, params, batch.prompts, rollout, draws, likelihood_config, settings
    )
    first = batch.old is None
    old = jax.lax.stop_gradient(new) if first else batch.old
    counted, scale = _counted(rollout, config, settings), draws.scale
    value = objective.token_objective(
        new,
        old,
        rollout.logprob,
        batch.reference,
        counted,
        batch.advantage,
        config,
        scale=scale,
        batch_tokens=batch.mean_tokens,
    )
    scored = counted if scale is None else counted & (scale > 0)
    metrics = diagnostics.ratio_metrics(new, old, batch.reference, scored, batch.advantage, config)
    if batch.right is not None:
        value += objective.likelihood_objective(
            new, counted, batch.right, batch.right_tokens, config, scale=scale
        )
        metrics["logprob/right"] = pair(new, scored & batch.right[:, None])
    if first:
        where = likelihood.by_position(policy, batch.prompts, rollout, draws.anchors)
        exact = likelihood.is_exact(*where)
        metrics |= diagnostics.surrogate_metrics(old, rollout, scored, exact, config)
    return value, metrics


def _selection_term(
    policy: Policy,
    params: Params,
    batch: Batch,
    config: ObjectiveConfig,
    settings: SamplerSettings,
    tokens_trained: bool,
) -> Term:
    """The term of the committed sets and its metrics.

    Entropies are recomputed under θ if the denoiser is trained, otherwise taken from the record.
    """
    rollout = batch.rollout
    if tokens_trained:
        lo, hi = commit_likelihood.call_bounds(policy, params, batch.prompts, rollout, settings)
    else:
        lo, hi = commit_likelihood.recorded_bounds(rollout, settings)
    mu, sigma = policy.threshold(params, rollout.features)
    new = commit_likelihood.log_selection(lo, hi, mu, sigma, settings.scope)
    old = batch.old_selection
    counted = _counted(rollout, config, settings)
    divisor = objective.token_divisor(counted, batch.mean_tokens, config.aggregation)
    value = objective.selection_objective(new, old, divisor, batch.advantage, config)
    value += config.gamma_entropy * jnp.log(sigma)
    clipped = objective.is_clipped(new - old, batch.advantage[:, None], config)
    uncertain, rows = new != 0, jnp.asarray(mu.shape[0])
    metrics = {
        "clip/selection": pair(clipped, uncertain),
        "selection/logprob": (jnp.sum(new), rows),
        "selection/off": pair(jnp.abs(new - old), uncertain),
    }
    return value, metrics | _head_metrics(mu, sigma)


def _threshold_term(policy: Policy, params: Params, batch: Batch, config: ObjectiveConfig) -> Term:
    """The term of γ as one more token, and its metrics.

    The features are what the head read when γ was drawn: its observation.  With them the density
    and its gradient in φ are exact, and the denoiser gets no gradient through them (our choice).
    """
    mu, sigma = policy.threshold(params, batch.rollout.features)
    log_gamma = jnp.log(batch.rollout.gamma)
    new = thresholds.log_normal_density(log_gamma, mu, sigma)
    old = batch.rollout.gamma_logprob
    value = objective.threshold_objective(new, old, sigma, batch.advantage, config)
    clipped = objective.is_clipped(new - old, batch.advantage, config)
    metrics = {"clip/gamma": (jnp.sum(clipped), jnp.asarray(mu.shape[0]))}
    return value, metrics | _head_metrics(mu, sigma)


def _head_metrics(mu: Float[Array, "B"], sigma: Float[Array, "B"]) -> Metrics:
    rows = jnp.asarray(mu.shape[0])
    return {"gamma/mu": (jnp.sum(mu), rows), "gamma/sigma": (jnp.sum(sigma), rows)}


def _counted(
    rollout: Rollout, config: ObjectiveConfig, settings: SamplerSettings
) -> Bool[Array, "B L"]:
    return objective.counted_tokens(rollout.tokens, rollout.sampled, settings.end, config.count)


def _single(x: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """A number as a metric (sum, count)."""
    return jnp.asarray(x, jnp.float32), jnp.ones((), jnp.float32)
