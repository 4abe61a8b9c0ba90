"""One optimiser update: sharded, micro-batched, one jitted program.

1. split the batch into micro-batches, each spread over all devices;
2. for each: surrogate log-likelihoods, objective, gradient of the sum over its sequences;
3. divide once by the number of sequences; apply the optimiser;
4. keep the old state where no sequence has an advantage.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from diffpo_jax.arrays import microbatch
from diffpo_jax.arrays.masked import pair
from diffpo_jax.arrays.types import Draws, Metrics, Params, Prompts, Rollout, TrainState
from diffpo_jax.config import LikelihoodConfig, ObjectiveConfig
from diffpo_jax.diffusion import commit_likelihood, likelihood, thresholds
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.models.policy import Policy
from diffpo_jax.rl import diagnostics, objective


class Batch(NamedTuple):
    """What one update learns from.  None: not needed (see `make_update`)."""

    prompts: Prompts
    rollout: Rollout
    advantage: Float[Array, "B"]
    draws: Draws | None
    old: Float[Array, "B L"] | None  # log π̂_old for these draws
    reference: Float[Array, "B L"] | None  # log π̂_ref for these draws
    old_selection: Float[Array, "B N"] | None = None  # log P_old of each call's set
    tokens: Float[Array, "B"] | None = None  # counted tokens a sequence, mean over the batch


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """A state at step 0, of the groups of parameters that are trained."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_score(
    policy: Policy, config: LikelihoodConfig, settings: SamplerSettings, micro_batch: int
) -> Callable[[Params, Prompts, Rollout, Draws], Float[Array, "B L"]]:
    """score(params, prompts, rollout, draws) -> log π̂ of every token [B L]."""

    def score(params: Params, prompts: Prompts, rollout: Rollout, draws: Draws) -> Array:
        def one(part):
            return likelihood.anchored_log_prob(policy, params, *part, config, settings)

        rows = rollout.nfe.shape[0]
        whole = (prompts, rollout, draws)
        order = _order(rollout, micro_batch or rows)
        parts = microbatch.split(_take(whole, order), micro_batch or rows)
        scored = microbatch.merge(jax.lax.map(one, parts))
        return jnp.zeros_like(scored).at[order].set(scored)

    return score


def make_divergence(
    config: ObjectiveConfig, settings: SamplerSettings
) -> Callable[[Array, Array, Rollout], Float[Array, "B"]]:
    """divergence(old, reference, rollout): the KL of each sequence, for a price in its reward."""

    def divergence(old: Array, reference: Array, rollout: Rollout) -> Array:
        counted = _counted(rollout, config, settings)
        return objective.sequence_kl(old, reference, counted, config.kl_estimator)

    return divergence


def make_old_selection(
    policy: Policy, settings: SamplerSettings
) -> Callable[[Params, Rollout], Float[Array, "B N"]]:
    """old_selection(params, rollout) -> log P_old of each call's set, from the record alone."""

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
    micro_batch: int = 0,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds update(state, frozen, batch, rate=1) -> (state, metrics), to be jitted.

    `state` has the groups that are trained, and may be donated; `frozen` has the others.  `rate` is
    a factor on the learning rates.

    Where `batch.old` is None the update is the first on these rollouts: θ is θ_old, and the old
    log-probabilities are the new ones, with no gradient.  `batch.draws` is None where no token is
    trained (mode "sampler"); `batch.reference` where no KL is in the loss.

    Args:
      groups: the names of what is trained (`optimizer.trained_groups`).
      micro_batch: sequences at a time, 0 for all; divides B.
      settings: of the sampler: likelihoods are of the distributions it drew from.
    """
    tokens_trained = trains_tokens(groups)

    def loss(params: Params, batch: Batch) -> tuple[Array, Metrics]:
        value, metrics = jnp.zeros_like(batch.advantage), {}
        if tokens_trained:
            tokens, metrics = _tokens(policy, params, batch, likelihood_config, config, settings)
            value += tokens
        if config.selection == "exact":
            sets, of_sets = _selection(policy, params, batch, config, settings, tokens_trained)
            value, metrics = value + sets, metrics | of_sets
        elif "threshold" in groups and config.selection == "gamma_token":
            gamma, of_gamma = _gamma(policy, params, batch, config)
            value, metrics = value + gamma, metrics | of_gamma
        metrics["objective"] = (jnp.sum(value), jnp.asarray(value.shape[0]))
        return -jnp.sum(value), metrics

    def update(
        state: TrainState, frozen: Params, batch: Batch, rate: Float[Array, ""] | float = 1.0
    ) -> tuple[TrainState, Metrics]:
        # Only what is trained is differentiated: a frozen denoiser costs no backward pass.
        def gradient(part: Batch) -> tuple[Params, Metrics]:
            return jax.grad(lambda p: loss(frozen | p, part), has_aux=True)(state.params)

        rows = batch.advantage.shape[0]
        # Of the whole batch, whatever the micro-batches.
        tokens = jnp.sum(_counted(batch.rollout, config, settings)) / rows
        batch = batch._replace(tokens=jnp.full(rows, tokens, batch.advantage.dtype))
        batch = _take(batch, _order(batch.rollout, micro_batch or rows))
        total, metrics = microbatch.accumulate(gradient, batch, micro_batch)
        grads = jax.tree.map(lambda g: g / rows, total)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: u * jnp.asarray(rate, u.dtype), updates)
        params = optax.apply_updates(state.params, updates)
        for name in groups:
            metrics[f"grad_norm/{name}"] = _one(optax.tree.norm(grads[name]))
            ratio = optax.tree.norm(updates[name]) / optax.tree.norm(state.params[name])
            metrics[f"update_ratio/{name}"] = _one(ratio)
        # No advantage, no update: momentum must not move the parameters either.
        learn = jnp.any(batch.advantage != 0)
        new = TrainState(state.step + 1, params, opt_state)
        kept = state._replace(step=state.step + 1)
        state = jax.tree.map(lambda a, b: jnp.where(learn, a, b), new, kept)
        return state, metrics | {"skipped": _one(1.0 - learn)}

    return update


def trains_tokens(groups: tuple[str, ...]) -> bool:
    """Whether the model that writes is among what is trained, itself or by an adapter."""
    return "denoiser" in groups or "adapter" in groups


def _order(rollout: Rollout, micro_batch: int) -> Array:
    """Rows of as many calls together: a micro-batch is passed as often as its longest row."""
    return microbatch.group_similar(rollout.nfe, micro_batch)


def _take(tree: Any, order: Array) -> Any:
    return jax.tree.map(lambda x: x[order], tree)


def _tokens(policy, params, batch, likelihood_config, config, settings):
    new = likelihood.anchored_log_prob(
        policy,
        params,
        batch.prompts,
        batch.rollout,
        batch.draws,
        likelihood_config,
        settings,
    )
    first = batch.old is None
    old = jax.lax.stop_gradient(new) if first else batch.old
    counted, scale = _counted(batch.rollout, config, settings), batch.draws.scale
    value = objective.token_objective(
        new,
        old,
        batch.rollout.logprob,
        batch.reference,
        counted,
        batch.advantage,
        config,
        scale=scale,
        batch_tokens=batch.tokens,
    )
    scored = counted if scale is None else counted & (scale > 0)
    metrics = diagnostics.ratio_metrics(new, old, batch.reference, scored, batch.advantage, config)
    if first:
        exact = likelihood.is_exact(batch.rollout.commit_call, batch.draws.anchors)
        metrics |= diagnostics.surrogate_metrics(old, batch.rollout, scored, exact, config)
    return value, metrics


def _counted(rollout: Rollout, config: ObjectiveConfig, settings: SamplerSettings) -> Array:
    return objective.counted_tokens(rollout.tokens, rollout.sampled, settings.end, config.count)


def _selection(policy, params, batch, config, settings, tokens_trained):
    """The sets' part: entropies under θ where the denoiser is trained, otherwise as recorded."""
    rollout = batch.rollout
    if tokens_trained:
        lo, hi = commit_likelihood.call_bounds(policy, params, batch.prompts, rollout, settings)
    else:
        lo, hi = commit_likelihood.recorded_bounds(rollout, settings)
    mu, sigma = policy.threshold(params, rollout.features)
    new = commit_likelihood.log_selection(lo, hi, mu, sigma, settings.scope)
    old = batch.old_selection
    counted = _counted(rollout, config, settings)
    divisor = objective.token_divisor(counted, batch.tokens, config.aggregation)
    value = objective.selection_objective(new, old, divisor, batch.advantage, config)
    value += config.gamma_entropy * jnp.log(sigma)
    bounds = (config.clip_low, config.clip_high, config.clip)
    clipped = objective.is_clipped(new - old, batch.advantage[:, None], *bounds)
    made, rows = new != 0, jnp.asarray(mu.shape[0])
    metrics = {
        "clip/selection": pair(clipped, made),
        "selection/logprob": (jnp.sum(new), rows),
        "selection/off": pair(jnp.abs(new - old), made),
        "gamma/mu": (jnp.sum(mu), rows),
        "gamma/sigma": (jnp.sum(sigma), rows),
    }
    return value, metrics


def _gamma(policy, params, batch, config):
    # The features are what the head saw when γ was drawn: its observation.  Read that way the
    # density and its gradient in φ are exact; the denoiser gets none through it (our choice).
    mu, sigma = policy.threshold(params, batch.rollout.features)
    log_gamma = jnp.log(batch.rollout.gamma)
    new = thresholds.log_normal_density(log_gamma, mu, sigma)
    old = batch.rollout.gamma_logprob
    value = objective.threshold_objective(new, old, sigma, batch.advantage, config)
    bounds = (config.clip_low, config.clip_high, config.clip)
    clipped = objective.is_clipped(new - old, batch.advantage, *bounds)
    rows = jnp.asarray(mu.shape[0])
    metrics = {
        "clip/gamma": (jnp.sum(clipped), rows),
        "gamma/mu": (jnp.sum(mu), rows),
        "gamma/sigma": (jnp.sum(sigma), rows),
    }
    return value, metrics


def _one(x) -> tuple[Array, Array]:
    return jnp.asarray(x, jnp.float32), jnp.ones((), jnp.float32)
