"""Where SFT takes its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import reference

from diffpo_jax.config import PretrainConfig
from diffpo_jax.rl import schedule_free, update
from diffpo_jax.rl.optimizer import make_pretrain_optimizer
from diffpo_jax.run import pretrain

POLICY, PARAMS = reference.tiny_policy(layers=1, width=8, heads=2, ff=16)
PROMPTS = reference.some_prompts(0, 4, 3, 5)
TARGET = jnp.asarray(np.random.default_rng(1).integers(0, 5, (4, 4)), jnp.int32)


def make(kind):
    """A jitted step, and its first state."""
    config = PretrainConfig(kind=kind, warmup=0, learning_rate=1e-2, micro_batch=None)
    optimizer = make_pretrain_optimizer(config)
    step = jax.jit(pretrain.make_step(POLICY, optimizer, config))
    return step, update.init_state(PARAMS, optimizer)


def test_the_gradient_is_taken_at_y_and_the_result_is_the_mean():
    step, state = make("schedule_free_adamw")
    plain, start = make("adamw")
    steps = 3
    for number in range(steps):
        at, mean = schedule_free.gradient_params(state), state.params
        inputs = {}, PROMPTS, TARGET, jax.random.key(number)
        state, metrics = step(state, *inputs)
        # AdamW's first step from y has the loss and the gradient of y.
        _, expected = plain(start._replace(params=at), *inputs)
        for name in ("loss", "grad_norm"):
            np.testing.assert_allclose(metrics[name][0], expected[name][0], rtol=1e-5)
    # The first mean is of one, so y is another only from the third step on.
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), at, mean)
    assert min(jax.tree.leaves(apart["denoiser"])) > 1e-4
    averaged = jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "inner"))
    (own,) = (x for x in averaged if isinstance(x, schedule_free.Averaged))
    wanted = optax.contrib.schedule_free_eval_params(own.inner, own.at)["denoiser"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params["denoiser"], wanted
    )
