"""The SFT stage: trains the base model on prompts and answers, by LLaDA's masked-diffusion loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from diffpo_jax.arrays import microbatch, rng
from diffpo_jax.arrays.types import Metrics, Params, Prompts, TrainState
from diffpo_jax.config import PretrainConfig
from diffpo_jax.diffusion import sft_loss
from diffpo_jax.distributed import sharding
from diffpo_jax.models.policy import Policy
from diffpo_jax.rl import schedule_free
from diffpo_jax.run import setup as run_setup
from diffpo_jax.run import stage, trained
from diffpo_jax.run.setup import PRETRAIN, Setup
from diffpo_jax.workdir import metrics as metrics_lib


def make_step(
    policy: Policy, optimizer: optax.GradientTransformation, config: PretrainConfig
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds step(state, frozen, prompts, target [B L], key) -> (state, metrics), to be jitted.

    The step trains the denoiser, or the adapter if `state` has one; `frozen` has the parameters
    that `state` does not have.
    """

    def step(state: TrainState, frozen: Params, prompts: Prompts, target, key):
        masked, p = sft_loss.corrupt(key, target, config.t_min, policy, prompts)
        name = "adapter" if "adapter" in state.params else "denoiser"
        at = schedule_free.gradient_params(state)

        def gradient(batch):
            def loss(part):
                params = frozen | at | {name: part}
                return sft_loss.sft_loss(policy, params, *batch)

            return jax.grad(loss, has_aux=True)(at[name])

        batch = (prompts, target, masked, p)
        total, metrics = microbatch.accumulate(gradient, batch, config.micro_batch)
        grads = jax.tree.map(jnp.zeros_like, state.params)
        grads = grads | {name: jax.tree.map(lambda g: g / target.size, total)}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics["grad_norm"] = (optax.tree.norm(grads[name]), jnp.ones(()))
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def train(setup: Setup, frozen: Params, fresh_params: Callable[[], Params]) -> Params:
    """Trains from the newest checkpoint, or from new parameters, to the last step.

    Args:
      frozen: the parameters that are not trained.
      fresh_params: makes the trained parameters at step 0; only called if there is no checkpoint.

    Returns:
      The trained parameters.

    Raises:
      UserError: the loss is not finite; a checkpoint could not be read or written.
      Stopped: after SIGTERM or Ctrl-C, with the step saved.
    """
    config, mesh = setup.config, setup.mesh
    sft = trained.for_pretraining(config, setup.policy, mesh)
    step = jax.jit(
        make_step(setup.policy, sft.optimizer, config.pretrain),
        donate_argnums=0,
        out_shardings=(trained.shardings(sft.state), sharding.replicated(mesh)),
    )
    data = run_setup.iterator(setup, config.pretrain.batch, PRETRAIN)

    def fresh() -> TrainState:
        return trained.new_state(fresh_params(), sft)

    directory, last = setup.workdir.base, config.pretrain.steps
    with stage.start(setup, PRETRAIN, last, directory, data, sft.state, fresh) as loop:
        state = loop.state
        for number, batch in loop.steps():
            prompts = sharding.place_batch(Prompts(batch.tokens, batch.mask), mesh)
            target = sharding.place_batch(batch.target, mesh)
            key = rng.key_for(config.seed, PRETRAIN, number)
            state, metrics = step(state, frozen, prompts, target, key)
            values = metrics_lib.means(jax.device_get(metrics))
            hint = "Lower config.pretrain.learning_rate."
            loop.check_finite(number, values, hint)
            loop.log(number, values)
            loop.save(number, state)
            shown = {name: values[name] for name in ("loss", "masked_accuracy")}
            loop.end_step(number, **shown)
    return state.params
