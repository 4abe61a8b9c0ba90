"""The end of a run: both frontiers on the test split, and the summary of everything."""

import functools
import time
from typing import Any

from diffpo_jax.analysis import bootstrap, summary
from diffpo_jax.analysis.difficulty import by_difficulty
from diffpo_jax.arrays.types import Params
from diffpo_jax.config import DIALS
from diffpo_jax.distributed import hosts
from diffpo_jax.evaluation import evaluator, grading
from diffpo_jax.rl import trainer
from diffpo_jax.run import setup as run_setup
from diffpo_jax.run.setup import Setup
from diffpo_jax.system.progress import Progress
from diffpo_jax.workdir import layout, metrics


def final_evaluation(
    setup: Setup, base: Params, trained: Params
) -> tuple[dict[str, Any], dict[str, bootstrap.Outcomes]]:
    """Both frontiers on the test split, and the trained model at its learned threshold.

    Returns:
      The summary; and what became of each prompt at each point: "base/0.1", "trained/0.1" for a
      dial of 0.1, "learned", and "learned/2" for twice the learned thresholds.
    """
    config = setup.config
    examples = evaluator.choose(setup.task.examples("test"), config.evaluation)
    learns = config.mode != "model"
    factors = config.evaluation.factors if learns else ()
    runs, rule = 2 * len(config.dials) + learns + len(factors), config.sampler.rule
    point = functools.partial(evaluator.point, rule=rule, samples=config.evaluation.samples)
    graded: dict[str, grading.Graded] = {}
    frontiers: dict[str, list[dict[str, float]]] = {"base": [], "trained": []}
    began = time.perf_counter()
    with Progress("evaluation", runs, unit="pass") as progress:
        for name, params in (("base", base), ("trained", trained)):
            for dial in config.dials:
                graded[f"{name}/{dial}"] = setup.evaluator.fixed(params, dial, examples)
                frontiers[name].append(point(graded[f"{name}/{dial}"], dial=dial))
                here = frontiers[name][-1]
                progress.update(accuracy=here["accuracy"], nfe=here["nfe"])
        learned, scaled = None, []
        for factor in factors:
            graded[f"learned/{factor:g}"] = setup.evaluator.learned(trained, factor, examples)
            scaled.append({"factor": factor} | point(graded[f"learned/{factor:g}"]))
            progress.update(accuracy=scaled[-1]["accuracy"], nfe=scaled[-1]["nfe"])
        if learns:
            graded["learned"] = setup.evaluator.learned(trained, 1.0, examples)
            learned = point(graded["learned"])
            spread = grading.percentiles(graded["learned"])
            learned |= {f"gamma_p{q}": spread[f"gamma/p{q}"] for q in (5, 50, 95)}
            learned.pop("gamma")
            progress.update(accuracy=learned["accuracy"], nfe=learned["nfe"])
    last = graded["learned"] if learns else graded[f"trained/{config.dials[0]}"]
    rows = grading.sample_rows(last, None, len(last.texts))
    run_setup.write_samples(setup, "test", rows)
    seconds = {"evaluation": time.perf_counter() - began}
    outcomes = {
        name: evaluator.outcomes(g, config.evaluation.samples) for name, g in graded.items()
    }
    extra = {"scaled": scaled} if scaled else {}
    return _summary(setup, frontiers, learned, graded, outcomes, seconds, extra), outcomes


def validate(setup: Setup, params: Params) -> dict[str, float]:
    """Accuracy and calls on the validation split, at the threshold in use."""
    examples = setup.task.examples("validation")
    most = setup.config.evaluation.validation_examples
    graded = at_own_threshold(setup, params, examples[: most or None])
    rule, samples = setup.config.sampler.rule, setup.config.evaluation.samples
    point = evaluator.point(graded, rule, samples=samples)
    return {f"eval/{name}": value for name, value in point.items()}


def at_own_threshold(setup: Setup, params: Params, examples: Any) -> grading.Graded:
    """Generations at the learned threshold, or at the fixed dial in mode "model"."""
    if setup.config.mode == "model":
        return setup.evaluator.fixed(params, setup.config.dial, examples)
    return setup.evaluator.learned(params, 1.0, examples)


def _summary(setup, frontiers, learned, graded, outcomes, seconds, extra) -> dict[str, Any]:
    config = setup.config
    # What the process read that wrote them: on a mounted bucket others may not see all of it yet.
    lines = hosts.gather(metrics.read(setup.workdir.metrics) if hosts.is_first() else None)[0]
    count = len(next(iter(graded.values())).texts) // config.evaluation.samples
    for line in lines:
        name = line["stage"]
        seconds[name] = seconds.get(name, 0.0) + line["time/seconds"]
    last = [line for line in lines if line["stage"] == trainer.STAGE][-1]
    calls = {use: last.get(f"calls/{use}", 0.0) for use in ("rollout", "update")}
    calls["pretrain"] = 0 if config.init_from else config.pretrain.steps * config.pretrain.batch
    calls["evaluation"] = float(sum(g.rollout.nfe.sum() for g in graded.values()))
    scores = {name: grading.scores(g, setup.task) for name, g in graded.items()}
    curves = {
        name: [outcomes[f"{name}/{dial}"] for dial in config.dials] for name in ("base", "trained")
    }
    difficulty = None
    if learned is not None:
        of = graded["learned"]
        hard = [setup.task.difficulty(example) for example in of.examples]
        difficulty = by_difficulty(
            hard, of.rollout.gamma, of.rollout.nfe, of.correct, config.evaluation.samples
        )
    gains = bootstrap.paired_gains(
        curves["base"], curves["trained"], outcomes.get("learned"), seed=config.seed
    )
    dial = DIALS[config.sampler.rule]
    return summary.compare_models(frontiers["base"], frontiers["trained"], learned, dial) | {
        "gains": gains,
        "wall_seconds": {name: float(value) for name, value in seconds.items()},
        "denoiser_calls": {use: int(number) for use, number in calls.items()},
        "prompts": count,
        "seed": config.seed,
        "method": config.method,
        "mode": config.mode,
        "rule": config.sampler.rule,
        "dial": dial,
        "commit": layout.commit(),
        "versions": layout.versions(),
        **extra,
        "by_difficulty": difficulty,
        "scores": scores,
        "train_test_overlap": setup.task.overlap(),
    }
