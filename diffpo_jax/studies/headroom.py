"""Whether a learned sampler can pay: what choosing a threshold for each prompt could gain.

1. Train the run, or take it if it is finished: it measures the base under fixed rules, and the
   trained model.
2. Roll out the base on training prompts at every threshold of its frontier.
3. From what the head by prompt reads, the mean hidden state of the first call, learn how probably
   each threshold gives a right answer, and in how many calls.
4. On the test prompts choose by these predictions, and in hindsight by what came out.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from diffpo_jax.analysis import bootstrap, headroom
from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.analysis.summary import base_curves
from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Params
from diffpo_jax.config import HeadroomConfig, StudyConfig
from diffpo_jax.distributed import hosts
from diffpo_jax.evaluation import evaluator
from diffpo_jax.models.outcome_predictor import OutcomePredictor
from diffpo_jax.report import headroom as report
from diffpo_jax.report import picture
from diffpo_jax.run import base_model, experiment
from diffpo_jax.run import setup as run_setup
from diffpo_jax.system import files
from diffpo_jax.tasks.task import Example
from diffpo_jax.workdir import layout, provenance

_BATCH = 512  # prompts of a step
_CHECK = 100  # steps between looks at the prompts held out
_HELD_OUT = 8  # one prompt of so many is not trained on and decides when to stop


class Examined(NamedTuple):
    """Prompts with what the head by prompt reads of them, and what became of each threshold."""

    features: Float[np.ndarray, "N D"]
    points: Sequence[Outcomes]  # one for each threshold


def run(config: StudyConfig, workdir: str) -> dict[str, Any]:
    """Runs or resumes the study in a workdir; its run is in WORKDIR/run.

    Returns:
      The contents of report/headroom.json.
    """
    # 1. The run.
    root = pathlib.Path(workdir)
    config = dataclasses.replace(config, run=run_setup.with_weights(config.run))
    summary = experiment.run(config.run, str(root / "run"))
    paths = layout.open_workdir(str(root / "run"), config.run, overwrite=False)
    setup = run_setup.prepare(config.run, paths)
    with setup.writer:
        base = base_model.read(paths.root, setup.policy, setup.mesh, setup.config.model.quantized)
        # 2. The outcomes of every threshold.
        known, test = (setup.task.examples(split) for split in ("train", "test"))
        count = min(config.headroom.prompts, len(known))
        learned_from = examine(setup, base, known[len(known) - count :])
        tested_on = examine(setup, base, evaluator.choose(test, setup.config.evaluation))
    # 3. and 4. The choices.
    expected = predict(learned_from, tested_on.features, config.headroom, config.run.seed)
    by_prompt = headroom.choose_dials(expected, tested_on.points)
    gains = bootstrap.paired_gains(tested_on.points, by_prompt, None, seed=config.run.seed)
    result = {
        "rule": setup.config.base_rule,
        "base": base_curves(summary),
        "prices": list(headroom.PRICES),
        "predicted": headroom.as_frontier(by_prompt),
        "hindsight": headroom.best_dial_per_prompt(tested_on.points),
        "gain_predicted": gains["mean"],
        "trained": summary["trained"]["frontier"],
        "settings": {
            "mode": config.run.mode,
            "rule": config.run.sampler.rule,
            "training_prompts": count,
            "test_prompts": len(tested_on.features),
            "seed": config.run.seed,
        },
        "commit": provenance.commit(),
        "versions": provenance.versions(),
    }
    if hosts.is_first():
        picture.write(report.draw(result), root / "report")
        files.write_json(root / "report" / "headroom.json", result)
        print(report.as_text(result))
        print(f"report: {root / 'report'}")
    return result


def examine(setup: run_setup.Setup, base: Params, examples: Sequence[Example]) -> Examined:
    """Rolls out a base at every threshold of its frontier."""
    config, samples = setup.config, setup.config.evaluation.samples
    decode = run_setup.base_evaluator(setup).fixed
    graded = [decode(base, gamma, examples) for gamma in config.dials_of(config.base_rule)]
    features = np.asarray(graded[0].rollout.features, np.float32)[::samples]
    return Examined(features, [evaluator.outcomes(one, samples) for one in graded])


def predict(
    examined: Examined, features: Float[np.ndarray, "M D"], config: HeadroomConfig, seed: int
) -> list[Outcomes]:
    """The expected outcomes of other prompts, by a network that learns from those examined.

    Of its states it keeps the best on every eighth prompt, which it does not learn from.
    """
    # 1. The network, and its input on a scale of its own.
    mean, scale = examined.features.mean(axis=0), examined.features.std(axis=0) + 1e-6
    inputs = jnp.asarray((examined.features - mean) / scale)
    right, calls = (
        jnp.asarray(np.stack([getattr(p, name) for p in examined.points], axis=1), jnp.float32)
        for name in ("correct", "nfe")
    )
    network = OutcomePredictor(config.width, right.shape[1])
    rows = np.arange(len(inputs))
    held_out, seen = rows[::_HELD_OUT], np.delete(rows, rows[::_HELD_OUT])
    if not len(seen):
        seen = held_out
    params = network.init(rng.key_for(seed, "headroom"), inputs[:1])
    optimizer = optax.adam(config.learning_rate)

    def loss(params: Params, chosen: Array) -> Array:
        logits, expected = network.apply(params, inputs[chosen])
        error = optax.sigmoid_binary_cross_entropy(logits, right[chosen])
        return jnp.mean(error) + jnp.mean(jnp.abs(expected - calls[chosen]) / jnp.max(calls))

    @jax.jit
    def train(params: Params, state: Any, batches: Array) -> tuple[Params, Any]:
        def step(carry, chosen):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, chosen), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), batches)[0]

    # 2. Train, and keep the best.
    generator = np.random.default_rng(seed)
    state, judge = optimizer.init(params), jax.jit(loss)
    best, least = params, float(judge(params, held_out))
    for begin in range(0, config.steps, _CHECK):
        shape = min(_CHECK, config.steps - begin), min(_BATCH, len(seen))
        params, state = train(params, state, generator.choice(seen, shape))
        if (found := float(judge(params, held_out))) < least:
            best, least = params, found
    # 3. Predict.
    logits, expected = jax.device_get(network.apply(best, jnp.asarray((features - mean) / scale)))
    share = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return [Outcomes(*columns) for columns in zip(share.T, expected.T)]
