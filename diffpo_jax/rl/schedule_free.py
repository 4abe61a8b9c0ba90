"""Schedule-free learning (arXiv 2405.15682): three sequences of parameters in place of a decay.

    y = beta1 x + (1 - beta1) z      where gradients are taken
    z <- z - rate * step(gradient)   the optimiser's own
    x <- the mean of all z           what is evaluated, saved and exported

The parameters of a `TrainState` are x, so that whoever reads a state or a checkpoint gets what is
to be evaluated.  y is kept beside z in the optimiser's state.  optax recomputes one of the three
from the other two, which would save an array, but not give the same bits again after a restart.

A policy gradient is the gradient at the parameters that made the rollouts: those are y as well.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffpo_jax.arrays.types import Params, TrainState


class Averaged(NamedTuple):
    """The state of `with_average`."""

    inner: optax.contrib.ScheduleFreeState
    at: Params  # y


def with_average(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optax.contrib.schedule_free`, whose parameters are y, as an optimiser whose are x."""

    def init(params: Params) -> Averaged:
        # Copies, as the parameters may be donated.
        return Averaged(inner.init(params), jax.tree.map(jnp.copy, params))

    def update(grads: Params, state: Averaged, params: Params) -> tuple[Params, Averaged]:
        change, own = inner.update(grads, state.inner, state.at)
        at = optax.apply_updates(state.at, change)
        mean = optax.contrib.schedule_free_eval_params(own, at)
        return jax.tree.map(jnp.subtract, mean, params), Averaged(own, at)

    return optax.GradientTransformation(init, update)


def gradient_params(state: TrainState) -> Params:
    """The parameters at which gradients are taken: y, or the state's own of other optimisers."""

    def is_averaged(node: Any) -> bool:
        return isinstance(node, Averaged)

    params = dict(state.params)
    for node in filter(is_averaged, jax.tree.leaves(state.opt_state, is_leaf=is_averaged)):
        # Groups that another optimiser trains are masked.
        params |= {k: x for k, x in node.at.items() if not isinstance(x, optax.MaskedNode)}
    return params
