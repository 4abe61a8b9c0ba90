"""The base model: masked-diffusion SFT on prompts and answers (LLaDA's loss), its own stage."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from diffpo_jax.arrays import microbatch, rng
from diffpo_jax.arrays.types import Metrics, Params, Prompts, TrainState
from diffpo_jax.config import PretrainConfig
from diffpo_jax.diffusion import sft_loss
from diffpo_jax.distributed import preemption, sharding
from diffpo_jax.models.policy import Policy
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.progress import Progress
from diffpo_jax.workdir import metrics as metrics_lib
from diffpo_jax.workdir.checkpoints import Checkpoints

STAGE = "pretrain"


def make_step(
    policy: Policy, optimizer: optax.GradientTransformation, config: PretrainConfig
) -> Callable[..., tuple[TrainState, Metrics]]:
    """step(state, frozen, prompts, target [B L], key) -> (state, metrics), to be jitted.

    What is trained is the denoiser, or the adapter where `state` has one; `frozen` has the
    parameters that `state` has not.
    """

    def step(state: TrainState, frozen: Params, prompts: Prompts, target, key):
        masked, p = sft_loss.corrupt(key, target, config.t_min)
        name = "adapter" if "adapter" in state.params else "denoiser"

        def gradient(batch):
            def loss(part):
                params = frozen | state.params | {name: part}
                return sft_loss.sft_loss(policy, params, *batch)

            return jax.grad(loss, has_aux=True)(state.params[name])

        batch = (prompts, target, masked, p)
        total, metrics = microbatch.accumulate(gradient, batch, config.micro_batch)
        grads = jax.tree.map(jnp.zeros_like, state.params)
        grads = grads | {name: jax.tree.map(lambda g: g / target.size, total)}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        norm = optax.tree.norm(grads[name])
        metrics["grad_norm"] = (norm, jnp.ones(()))
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def run(
    step: Callable[..., tuple[TrainState, Metrics]],
    state: TrainState,
    frozen: Params,
    iterator: Any,
    checkpoints: Checkpoints,
    writer: metrics_lib.MetricsWriter,
    config: PretrainConfig,
    mesh: Mesh,
    *,
    seed: int,
    start: int,
    log_every: int,
) -> TrainState:
    """Trains from step `start` to the last.

    Args:
      step: jitted `make_step`.
      state: at step `start`.
      frozen: the parameters that are not in it.
      iterator: grain iterator of encoded batches, at the same step.

    Raises:
      UserError: the loss is not finite; a checkpoint could not be written.
      Stopped: after SIGTERM, with the step saved.
    """
    with Progress(STAGE, config.steps, initial=start) as progress, preemption.Notice() as notice:
        written = time.perf_counter()
        for number in range(start + 1, config.steps + 1):
            batch = next(iterator)
            prompts = sharding.place_batch(Prompts(batch.tokens, batch.mask), mesh)
            target = sharding.place_batch(batch.target, mesh)
            state, metrics = step(state, frozen, prompts, target, rng.key_for(seed, STAGE, number))
            values = metrics_lib.means(jax.device_get(metrics))
            if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
                raise UserError(
                    f"pretraining step {number}: the loss is {values['loss']} and the gradient's "
                    f"norm {values['grad_norm']}. Last good checkpoint: step "
                    f"{checkpoints.latest()} of {checkpoints.directory}. Lower "
                    "config.pretrain.learning_rate."
                )
            if number % log_every == 0 or number == config.steps:
                now = time.perf_counter()
                writer.write(STAGE, number, values, {"seconds": now - written})
                written = now
            told = notice.given()
            checkpoints.save(number, state, iterator, {}, due=told)
            if told:
                preemption.stop(STAGE, number, checkpoints)
            progress.update(loss=values["loss"], masked_accuracy=values["masked_accuracy"])
        checkpoints.wait()  # while SIGTERM is still heeded
    return state
