"""The end of a run: both frontiers on the test split, and the summary of everything."""

import functools
import time
from typing import Any

import numpy as np

from diffpo_jax.analysis import bootstrap, headroom, summary
from diffpo_jax.analysis.difficulty import by_difficulty
from diffpo_jax.analysis.frontier import best_within
from diffpo_jax.arrays.types import Params
from diffpo_jax.config import DIALS, Config
from diffpo_jax.distributed import hosts
from diffpo_jax.evaluation import evaluator, grading, threshold_choice
from diffpo_jax.models import flops
from diffpo_jax.rl import rewards
from diffpo_jax.run import base_model, points
from diffpo_jax.run import setup as run_setup
from diffpo_jax.run.setup import RL, Setup
from diffpo_jax.system.progress import Progress
from diffpo_jax.workdir import metrics, provenance

_EQUAL_CALLS = 1.05  # times as many calls count as no more
_TRAINED = "trained/"  # before the dial, in the key of a point of the trained model


def final_evaluation(
    setup: Setup, base: Params, trained: Params
) -> tuple[dict[str, Any], dict[str, bootstrap.Outcomes]]:
    """Both frontiers on the test split, and the trained model at its learned threshold.

    Returns:
      The summary; and the outcome of each prompt at each point: "base/0.1" and "trained/0.1" for a
      dial of 0.1, "confidence/0.9" for the base under another rule, "learned", and "learned/2" for
      twice the learned thresholds.
    """
    config = setup.config
    examples = evaluator.choose(setup.task.examples("test"), config.evaluation)
    learns = threshold_choice.is_learned(config, config.sampler.rule)
    factors = config.evaluation.factors if learns else ()
    rule, samples = config.sampler.rule, config.evaluation.samples
    point = functools.partial(evaluator.point, rule=rule, samples=samples)
    graded: dict[str, grading.Graded] = {}
    frontiers: dict[str, list[dict[str, float]]] = {}
    base_rule = config.base_rule
    own, kept = run_setup.base_evaluator(setup), points.Points(setup, examples)
    others = [name for name in config.evaluation.base_rules if name not in (rule, base_rule)]
    began = time.perf_counter()
    passes = len(config.dials) + len(config.dials_of(base_rule)) + learns + len(factors)
    passes += sum(len(config.dials_of(name)) for name in others)
    with Progress("evaluation", passes, unit="pass") as progress:
        # 1. Both models over the grid of fixed dials, and the base under other rules.
        curves = [
            ("base", base, base_rule, own),
            ("trained", trained, rule, setup.evaluator),
        ]
        curves += [(x, base, x, run_setup.evaluator_of_rule(setup, x)) for x in others]
        for name, params, its_rule, its_evaluator in curves:
            for dial in config.dials_of(its_rule):
                place = f"{name}/{dial}"
                evaluate = functools.partial(its_evaluator.fixed, params, dial, examples)
                graded[place] = kept.get(place, evaluate)
                one = evaluator.point(graded[place], its_rule, dial, samples)
                frontiers.setdefault(name, []).append(one)
                _show(progress, one)
        # 2. The trained model at factors on its learned thresholds, and at these themselves.
        learned, scaled = None, []
        for factor in factors:
            place = f"learned/{factor:g}"
            evaluate = functools.partial(setup.evaluator.median, trained, factor, examples)
            graded[place] = kept.get(place, evaluate)
            scaled.append({"factor": factor} | point(graded[place]))
            _show(progress, scaled[-1])
        if learns:
            evaluate = functools.partial(setup.evaluator.median, trained, 1.0, examples)
            graded["learned"] = kept.get("learned", evaluate)
            learned = point(graded["learned"])
            spread = grading.percentiles(graded["learned"])
            learned |= {f"gamma_p{q}": spread[f"gamma/p{q}"] for q in (5, 50, 95)}
            learned.pop("gamma")
            _show(progress, learned)
    # 3. Samples and the summary.
    last = graded[_place_in_use(config)]
    run_setup.write_samples(setup, "test", grading.sample_rows(last, None, len(last.texts)))
    seconds = {"evaluation": time.perf_counter() - began}
    outcomes = {name: evaluator.outcomes(g, samples) for name, g in graded.items()}
    extra = {"scaled": scaled} if scaled else {}
    return _summary(setup, frontiers, learned, graded, outcomes, seconds, extra), outcomes


def validate(setup: Setup, params: Params) -> dict[str, float]:
    """Accuracy, calls and reward of a model in training on the validation split, as "eval/...".

    It decodes at its learned threshold, or at the fixed dial in mode "model".
    """
    config = setup.config
    examples = setup.task.examples("validation")[: config.evaluation.validation_examples]
    kind, dial = threshold_choice.threshold_in_use(config)
    run = setup.evaluator.median if kind == "median" else setup.evaluator.fixed
    graded = run(params, dial, examples)
    point = evaluator.point(graded, config.sampler.rule, samples=config.evaluation.samples)
    price = None
    if config.sampler.rule == "state":
        price = np.full(len(graded.total), config.sampler.price * setup.task.reward_max)
    nfe, length = graded.rollout.nfe, config.sampler.length
    reward = rewards.priced_rewards(graded.total, nfe, None, length, config.rl, price)
    point["reward"] = float(reward.mean())
    return {f"eval/{name}": value for name, value in point.items()}


def _show(progress: Progress, point: dict[str, float]) -> None:
    progress.update(accuracy=point["accuracy"], nfe=point["nfe"])


def _head_facts(setup: Setup) -> dict[str, float]:
    """The default price of the head by state, and its share of a call's FLOPs; empty without it."""
    config = setup.config
    network = run_setup.network(config, setup.policy.vocab)
    if network.head is None:
        return {}
    own, size = config.sampler, config.decoder.block_length
    tokens = own.prompt_length + own.length
    call = flops.call_flops(network, tokens=tokens, keys=tokens, read=size).forward
    return {"price": own.price, "head_flops": flops.head_flops(network, size) / call}


def _place_in_use(config: Config) -> str:
    """The key of the point at which the trained model is looked at closely.

    It is the learned threshold if there is one, else the dial nearest to the run's own.
    """
    if threshold_choice.is_learned(config, config.sampler.rule):
        return "learned"
    dials, own = config.dials, config.dial
    if DIALS[config.sampler.rule] == "price":
        return f"{_TRAINED}{dials[summary.nearest(dials, own)]}"
    return f"{_TRAINED}{min(dials, key=lambda dial: abs(dial - own))}"


def _by_difficulty(
    setup: Setup, frontiers: dict[str, Any], graded: dict[str, grading.Graded]
) -> dict[str, Any]:
    """The point in use by difficulty, beside the base at its best and the best fixed dial."""
    config, place = setup.config, _place_in_use(setup.config)
    own = graded[place]
    best = max(frontiers["base"], key=lambda point: point["accuracy"])
    dial = float(best[DIALS[config.base_rule]])
    compared, fixed = {"base": graded[f"base/{dial}"]}, _fixed(config, frontiers, own, place)
    if fixed is not None:
        compared["fixed"] = graded[fixed.pop("key")]
    return by_difficulty(
        [setup.task.difficulty(example) for example in own.examples],
        own.rollout.nfe,
        own.correct,
        gamma=own.rollout.gamma if place == "learned" else None,
        compared={name: (other.rollout.nfe, other.correct) for name, other in compared.items()},
        samples=config.evaluation.samples,
    ) | {
        "place": place
        if place == "learned"
        else f"{DIALS[config.sampler.rule]} {place.removeprefix(_TRAINED)}",
        "base_nfe": best["nfe"],
        "fixed": fixed or {},
        "unit": setup.task.difficulty_unit,
    }


def _fixed(
    config: Config, frontiers: dict[str, Any], own: grading.Graded, place: str
) -> dict[str, Any] | None:
    """The most accurate fixed dial of about as many calls as the point in use; None without a head.

    It is the trained model's own γ, which shows what choosing γ by prompt adds. A head by state is
    not evaluated at fixed dials, so it is the base's then, under whichever rule does best.
    """
    if place == "learned":
        curves = {"trained": config.sampler.rule}
    elif DIALS[config.sampler.rule] == "price":
        curves = {"base": config.base_rule} | {x: x for x in frontiers if x in DIALS}
    else:
        return None
    points = [
        point | {"key": f"{curve}/{point[DIALS[rule]]}", "dial": DIALS[rule]}
        for curve, rule in curves.items()
        for point in frontiers[curve]
    ]
    best = points[best_within(points, _EQUAL_CALLS * float(np.mean(own.rollout.nfe)))]
    return {
        "model": "trained" if place == "learned" else "base",
        "dial": best["dial"],
        "value": best[best["dial"]],
        "nfe": best["nfe"],
        "key": best["key"],
    }


def _shown(setup: Setup) -> dict[str, Any] | None:
    """What demonstrations the base was trained on; None for published weights without SFT."""
    config, task = base_model.origin(setup.config), setup.task
    own = config.pretrain
    if not own.steps:
        return None
    rows = own.demonstrations
    return {
        "steps": own.steps,
        "source": rows.source or task.name,
        "difficulty": rows.difficulty,
        "count": rows.count,
        "unit": task.difficulty_unit,
    }


def _summary(setup, frontiers, learned, graded, outcomes, seconds, extra) -> dict[str, Any]:
    config = setup.config
    # Only the process that wrote the lines reads them: on a mounted bucket others may lag behind.
    lines = hosts.gather(metrics.read(setup.workdir.metrics) if hosts.is_first() else None)[0]
    count = len(next(iter(graded.values())).texts) // config.evaluation.samples
    for line in lines:
        name = line["stage"]
        seconds[name] = seconds.get(name, 0.0) + line["time/seconds"]
    last = [line for line in lines if line["stage"] == RL][-1]
    calls = {use: last.get(f"calls/{use}", 0.0) for use in ("rollout", "update")}
    calls["pretrain"] = 0 if config.init_from else config.pretrain.steps * config.pretrain.batch
    calls["evaluation"] = float(sum(g.rollout.nfe.sum() for g in graded.values()))
    scores = {name: grading.scores(g, setup.task) for name, g in graded.items()}
    rules = {name: points for name, points in frontiers.items() if name in DIALS}
    dials = {name: config.dials_of(name) for name in rules}
    dials |= {"base": config.dials_of(config.base_rule), "trained": config.dials}
    curves = {name: [outcomes[f"{name}/{d}"] for d in grid] for name, grid in dials.items()}
    gains = {
        name: bootstrap.paired_gains(
            curves[name], curves["trained"], outcomes.get("learned"), seed=config.seed
        )
        for name in ("base", *rules)
    }
    by_rule = {name: gains[name] for name in rules}
    dial, base_dial = DIALS[config.sampler.rule], DIALS[config.base_rule]
    both = frontiers["base"], frontiers["trained"]
    return summary.compare_models(*both, learned, dial, rules, base_dial) | {
        "gains": gains["base"] | {"rules": by_rule},
        "hindsight": headroom.best_dial_per_prompt(curves["base"]),
        "wall_seconds": {name: float(value) for name, value in seconds.items()},
        "denoiser_calls": {use: int(number) for use, number in calls.items()},
        "prompts": count,
        "steps": config.rl.steps,
        "seed": config.seed,
        "method": config.method,
        "mode": config.mode,
        "rule": config.sampler.rule,
        "base_rule": config.base_rule,
        **_head_facts(setup),
        "dial": dial,
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        **extra,
        "by_difficulty": _by_difficulty(setup, frontiers, graded),
        "shown": _shown(setup),
        "scores": scores,
        "train_test_overlap": setup.task.overlap(),
    }
