"""Evaluates a model on a task's test split without training, point by point."""

import dataclasses
import json
import pathlib
from typing import Any

from diffpo_jax.config import DIALS, Config, values
from diffpo_jax.evaluation import evaluator, grading, threshold_choice
from diffpo_jax.evaluation.grading import METRIC
from diffpo_jax.models import huggingface
from diffpo_jax.run import base_model, inputs
from diffpo_jax.run import setup as run_setup
from diffpo_jax.run import weights as weights_lib
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError, during
from diffpo_jax.system.progress import Progress, say
from diffpo_jax.tasks import functions
from diffpo_jax.workdir import checkpoints, layout, provenance
from diffpo_jax.workdir import inputs as stored

LEARNED = "learned"  # names the point at the threshold that the run learned


def score(config: Config, out: str, *, run: str = "", which: str = "trained") -> dict[str, Any]:
    """Accuracy and calls at every point of the configuration's grid, on the test split.

    Args:
      out: directory for the results; results of the same configuration that are there are kept.
      run: workdir of the run whose model to score; "" for the configuration's published weights.
      which: "trained" or "base", of the run.

    Returns:
      The content of evaluation.json: points in order, the task's own scores, settings, lineage.

    Raises:
      UserError: there is no model to score; anything else the user can mend.
    """
    if not run and not config.model.weights:
        raise UserError("no model to score: give --model (published weights) or --run (a workdir).")
    # 1. Take the network of the run, and read the model.
    which = which if run else "published"
    stage = dataclasses.replace(config.pretrain, steps=0)
    run_config = layout.read_config(layout.Workdir(pathlib.Path(run))) if run else config
    config = dataclasses.replace(config, pretrain=stage, init_from=run or None)
    config = run_setup.with_weights(run_setup.with_network_of(config, run_config))
    workdir = layout.open_workdir(out, config, overwrite=False)
    setup = run_setup.prepare(config, workdir)
    if which == "trained":
        params = base_model.restore(run, which, setup.policy, setup.mesh, config.model.quantized)
    else:
        params = base_model.make(setup)
    checked = None if run else weights_lib.check(setup, params)
    run_setup.record(setup, config)
    # 2. Say what is evaluated, so that points of another evaluation are not taken for its own.
    weights = base_model.weights_of(run_config)
    source = huggingface.locate(weights) if weights else None
    model = {
        "run": run,
        "which": which,
        "step": _step(run, which),
        "weights": weights or "",
        "sha256": huggingface.fingerprint(source) if source else "",
    }
    # `asked` has the fields that a workdir may change between two runs of one configuration.
    # Points of older versions compare as equal: `former_values` writes None as they did.
    test = setup.inputs[inputs.TEST]
    asked = {"model": model, "test_file": config.task.test_file or "", "test_sha256": test.sha256}
    asked |= values.former_values(config.evaluation)
    asked["functions"] = {
        spec: functions.source(spec, "config.evaluation.metrics")[1]
        for spec in config.evaluation.metrics
    }
    asked = json.loads(json.dumps(asked))
    if run:
        _compare_with_run(config, setup, run_config, run)
    # 3. Evaluate the points that are missing.
    examples = evaluator.choose(setup.task.examples("test"), config.evaluation)
    threshold_choice.check_head(run_config, config.sampler.rule, which)
    learned = threshold_choice.is_learned(run_config, config.sampler.rule, which)
    dials = [*config.dials, *([LEARNED] if learned else [])]
    points = []
    with Progress("evaluation", len(dials), unit="point") as progress:
        for dial in dials:
            path = workdir.samples / f"{which}-{dial}.json"
            if not _is_current(path, asked):
                with during(f"evaluation, point {dial}"):
                    if dial == LEARNED:
                        graded = setup.evaluator.median(params, 1.0, examples)
                    else:
                        graded = setup.evaluator.fixed(params, dial, examples)
                given = None if dial == LEARNED else dial
                rule, samples = config.sampler.rule, config.evaluation.samples
                point = evaluator.point(graded, rule, given, samples)
                point["scores"] = grading.scores(graded, setup.task)
                rows = grading.sample_rows(graded, None, len(graded.texts))
                files.write_jsonl(path.with_suffix(".jsonl"), rows)
                whole = {"learned": dial == LEARNED, "asked": asked, **point}
                files.write_json(path, whole)  # last, so that it stands for a complete point
            points.append(json.loads(path.read_text("utf-8")))
            del points[-1]["asked"]
            progress.update(accuracy=points[-1]["accuracy"], nfe=points[-1]["nfe"])
    result = {
        "task": config.task.name,
        "protocol": config.task.protocol,
        "prompts": len(examples),
        "samples": config.evaluation.samples,
        "rule": config.sampler.rule,
        "points": points,
        "model": model,
        "weights": checked._asdict() if checked else None,
        "seed": config.seed,
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "run_info": json.loads(workdir.run_info.read_text("utf-8")),
    }
    files.write_json(workdir.root / "evaluation.json", result)
    return result


def _is_current(path: pathlib.Path, asked: dict[str, Any]) -> bool:
    """Whether a point has been evaluated as is asked; a damaged file counts as none."""
    try:
        before = json.loads(path.read_text("utf-8"))["asked"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False
    before = {"metrics": [], "functions": {}} | before  # older versions knew no metrics
    now = asked["test_sha256"]
    former = before.setdefault("test_sha256", now)  # older versions did not record it
    if before != asked | {"test_sha256": former}:
        return False
    if former != now:
        say(f"note: {path.stem}: the test examples have changed; it is evaluated again.")
    return former == now


def _compare_with_run(config: Config, setup: run_setup.Setup, run_config: Config, run: str) -> None:
    """Says if the run's own results are on other test examples, or by other code, of that name."""
    places = [dataclasses.replace(x.task, data_dir=None) for x in (config, run_config)]
    if places[0] != places[1]:
        return
    recorded = stored.read(layout.Workdir(pathlib.Path(run)).inputs)
    names = {inputs.TEST, *inputs.FUNCTIONS} & setup.inputs.keys()
    new = {name: setup.inputs[name] for name in names}
    for text in stored.differences(recorded, new).values():
        say(f"warning: {text}; the results in {run} are on the old ones.")


def _step(run: str, which: str) -> int | None:
    """The step of a run's model; None for published weights."""
    if not run:
        return None
    paths = layout.Workdir(pathlib.Path(run))
    return checkpoints.latest_step(paths.rl if which == "trained" else paths.base)


def table(result: dict[str, Any]) -> str:
    """One line per point: the dial, accuracy, calls, tokens per call, the task's own scores."""
    name = DIALS[result["rule"]]
    lines = [f"{result['task']}, {result['prompts']} prompts, protocol {result['protocol']}"]
    for point in result["points"]:
        dial = LEARNED if point["learned"] else f"{point[name]:g}"
        scores = ", ".join(
            [f"{key} {100 * value:.1f} %" for key, value in point["scores"].items()]
            + [f"{key} {value:.3g}" for key, value in point.items() if key.startswith(METRIC)]
        )
        lines.append(
            f"  {name} {dial:>8}  {100 * point['accuracy']:5.1f} % in {point['nfe']:6.2f} calls, "
            f"{point['tokens_per_call']:.2f} tokens a call" + (f"; {scores}" if scores else "")
        )
    return "\n".join(lines)
