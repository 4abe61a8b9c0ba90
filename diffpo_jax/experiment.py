"""A run from top to bottom: data, base model, RL, evaluation, report.

Every stage picks up where a kill left it: what is on disk decides, and what is computed again
comes out the same.
"""

import functools
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from diffpo_jax import (
    checkpoints,
    config_io,
    evaluate,
    files,
    grading,
    metrics,
    pretrain,
    rng,
    tasks,
)
from diffpo_jax import workdir as workdir_lib
from diffpo_jax.config import DIALS, Config
from diffpo_jax.data import prompts, tokenizers
from diffpo_jax.diffusion import generate
from diffpo_jax.distributed import hosts, sharding
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.models import families, huggingface
from diffpo_jax.models.policy import Policy
from diffpo_jax.progress import Progress
from diffpo_jax.report import statistics
from diffpo_jax.report import summary as summary_lib
from diffpo_jax.report import write as report_lib
from diffpo_jax.report.difficulty import by_difficulty
from diffpo_jax.rl import optimizer, trainer, update
from diffpo_jax.tasks import demonstrations
from diffpo_jax.tasks.task import Example, Task
from diffpo_jax.types import Params, TrainState

_PREFLIGHT_SECONDS = 300.0  # hosts of a large slice import and read at their own pace


class Setup(NamedTuple):
    """What every stage uses."""

    config: Config
    workdir: workdir_lib.Workdir
    mesh: Mesh
    task: Task
    demonstrations: Sequence[Example]  # what the base model is trained on
    tokenizer: Any
    policy: Policy
    writer: metrics.MetricsWriter
    evaluator: evaluate.Evaluator


def run(config: Config, path: str, *, overwrite: bool = False) -> dict[str, Any]:
    """Runs or resumes an experiment in a workdir.

    Returns:
      The summary, as in report/summary.json.

    Raises:
      UserError: anything the user can mend; nothing that was on disk is lost.
    """
    workdir_lib.check_path(path)
    text, commit = config_io.to_json(config), workdir_lib.commit()
    hosts.preflight(pathlib.Path(path), text, commit, _PREFLIGHT_SECONDS)
    workdir = hosts.in_turn(
        lambda: workdir_lib.open_workdir(path, config, overwrite=overwrite and hosts.is_first())
    )
    setup = prepare(config, workdir)
    base = base_model(setup)
    trained = train(setup, base)
    summary = final_evaluation(setup, base, trained)
    if hosts.is_first():
        report_lib.write_report(workdir.report, summary, metrics.read(workdir.metrics))
        print(summary_lib.final_table(summary))
        print(f"report: {workdir.report}")
    return summary


def prepare(config: Config, workdir: workdir_lib.Workdir) -> Setup:
    """Devices, data and programs; whatever is wrong with the input shows here."""
    mesh = mesh_lib.make_mesh(config.mesh)
    if hosts.is_first():
        files.write_json(workdir.run_info, workdir_lib.run_info(_mesh_text(mesh)))
    data_dir = pathlib.Path(config.task.data_dir) if config.task.data_dir else workdir.data
    # The first to come writes the data set, where it is a generated one.
    task = hosts.in_turn(lambda: tasks.make_task(config.task, data_dir))
    tokenizer = tokenizers.make_tokenizer(config.tokenizer)
    check_examples(config, task, tokenizer)
    shown = shown_examples(config, task, tokenizer)
    policy = make_policy(config, tokenizer, mesh)
    first = hosts.is_first()
    lines = workdir.metrics if first else os.devnull
    writer = metrics.MetricsWriter(lines, config.logging.tensorboard and first)
    evaluator = evaluate.make_evaluator(
        policy,
        config.decoder,
        config.evaluation,
        task,
        tokenizer,
        mesh,
        config.seed,
        _slots(config),
    )
    return Setup(config, workdir, mesh, task, shown, tokenizer, policy, writer, evaluator)


def make_policy(config: Config, tokenizer: Any, mesh: Mesh) -> Policy:
    """The network of a configuration, for the devices of a mesh."""
    return families.make_policy(
        config.model,
        config.threshold,
        vocab=config.model.vocab or len(tokenizer),
        mask_id=tokenizers.special_ids(tokenizer).mask,
        platform=mesh.devices.flat[0].platform,
    )


def check_examples(config: Config, task: Task, tokenizer: Any) -> None:
    """Encodes every example once: one that does not fit must not stop a run on its third day."""
    for split in ("train", "validation", "test"):
        _encode_all(task.examples(split), tokenizer, _lengths(config))
    if task.overlap():
        _say(f"note: {task.overlap()} test prompts are training prompts too.")


def shown_examples(config: Config, task: Task, tokenizer: Any) -> Sequence[Example]:
    """What the base model is trained on: rows of its own, checked like the task's, or those."""
    stage = config.pretrain
    if not stage.demonstrations.source or not stage.steps or config.init_from:
        return task.examples("train")
    shown, lengths = demonstrations.read(stage.demonstrations), _demonstration_lengths(config)
    _encode_all(shown, tokenizer, lengths)
    return shown


def _encode_all(examples: Sequence[Example], tokenizer: Any, encoding: dict[str, Any]) -> None:
    for _ in prompts.batches_in_order(examples, tokenizer, batch=1024, **encoding):
        pass


def base_model(setup: Setup) -> Params:
    """The model before RL: this workdir's, or `init_from`'s, or a newly trained one.

    Restore order: a base in this workdir > config.init_from > published weights
    (config.model.weights) > random ones; pretraining goes on from the last two.
    """
    config, workdir = setup.config, setup.workdir
    stage = config.pretrain
    opt = optimizer.make_pretrain_optimizer(stage)
    make = functools.partial(update.init_state, optimizer=opt)
    state = _initial_state(setup, make)
    _say(sharding.table(state.params, setup.mesh))
    if config.init_from:
        source = pathlib.Path(config.init_from) / "checkpoints" / "base"
        _say(f"base model: from {source}")
        return checkpoints.restore_params(source, state.params)
    iterator = _iterator(setup, stage.batch, pretrain.STAGE)
    with checkpoints.Checkpoints(workdir.base, config.checkpoint, stage.steps) as saved:
        start, state, _ = _resume(setup, saved, state, iterator, pretrain.STAGE, stage.steps)
        if config.model.weights and saved.latest() is None:
            state = _published(config, state)
        step = jax.jit(
            pretrain.make_step(setup.policy, opt, stage),
            donate_argnums=0,
            out_shardings=(
                sharding.shardings(state, setup.mesh),
                sharding.replicated(setup.mesh),
            ),
        )
        state = pretrain.run(
            step,
            state,
            iterator,
            saved,
            setup.writer,
            stage,
            setup.mesh,
            seed=config.seed,
            start=start,
            log_every=config.logging.every,
        )
    return state.params


def train(setup: Setup, base: Params) -> Params:
    """RL from the base model; the parameters after the last step."""
    config = setup.config
    updates = config.rl.steps * config.rl.inner_updates
    opt = optimizer.make_optimizer(config.rl.optimizer, config.mode, updates)
    abstract = jax.eval_shape(functools.partial(update.init_state, optimizer=opt), base)
    layout = sharding.shardings(abstract, setup.mesh)
    # A copy: the state is donated step by step, the base is still needed.
    fresh = jax.jit(functools.partial(update.init_state, optimizer=opt), out_shardings=layout)
    state = fresh(base)
    programs = trainer.make_programs(
        setup.policy,
        opt,
        config.rl,
        generate.make_settings(
            config.sampler,
            config.sampler.temperature,
            tokenizers.end_ids(setup.tokenizer),
            config.threshold.scope,
        ),
        config.mode,
        setup.mesh,
        state,
        _slots(config),
    )
    loop = trainer.Trainer(
        programs=programs,
        config=config.rl,
        sampler=config.sampler,
        logging=config.logging,
        mode=config.mode,
        dial=config.dial,
        seed=config.seed,
        mesh=setup.mesh,
        task=setup.task,
        tokenizer=setup.tokenizer,
        examples=setup.task.examples("train"),
        reference=base if config.rl.objective.kl else None,
        evaluate=functools.partial(validate, setup),
        evaluate_every=config.evaluation.every,
        write_samples=lambda step, rows: _write_samples(setup, f"rl-{step:06d}", rows),
    )
    iterator = _iterator(setup, config.rl.prompts, trainer.STAGE)
    with checkpoints.Checkpoints(setup.workdir.rl, config.checkpoint, config.rl.steps) as saved:
        start, state, meta = _resume(setup, saved, state, iterator, trainer.STAGE, config.rl.steps)
        state = loop.run(state, iterator, saved, setup.writer, start=start, meta=meta)
    return state.params


def validate(setup: Setup, params: Params) -> dict[str, float]:
    """Accuracy and calls on the validation split, at the threshold in use."""
    examples = setup.task.examples("validation")
    most = setup.config.evaluation.validation_examples
    graded = at_own_threshold(setup, params, examples[: most or None])
    evaluation = setup.config.evaluation
    point = evaluate.point(graded, setup.config.sampler.rule, samples=evaluation.samples)
    return {f"eval/{name}": value for name, value in point.items()}


def at_own_threshold(setup: Setup, params: Params, examples: Any) -> grading.Graded:
    """Generations at the learned threshold, or at the fixed dial in mode "model"."""
    if setup.config.mode == "model":
        return setup.evaluator.fixed(params, setup.config.dial, examples)
    return setup.evaluator.learned(params, 1.0, examples)


def final_evaluation(setup: Setup, base: Params, trained: Params) -> dict[str, Any]:
    """Both frontiers on the test split, and the trained model at its learned threshold."""
    config = setup.config
    examples = evaluate.choose(setup.task.examples("test"), config.evaluation)
    learns = config.mode != "model"
    runs, rule = 2 * len(config.dials) + learns, config.sampler.rule
    point = functools.partial(evaluate.point, rule=rule, samples=config.evaluation.samples)
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
        learned = None
        if learns:
            graded["learned"] = setup.evaluator.learned(trained, 1.0, examples)
            learned = point(graded["learned"])
            spread = grading.percentiles(graded["learned"])
            learned |= {f"gamma_p{q}": spread[f"gamma/p{q}"] for q in (5, 50, 95)}
            learned.pop("gamma")
            progress.update(accuracy=learned["accuracy"], nfe=learned["nfe"])
    last = graded["learned"] if learns else graded[f"trained/{config.dials[0]}"]
    rows = grading.sample_rows(last, None, len(last.texts))
    _write_samples(setup, "test", rows)
    seconds = {"evaluation": time.perf_counter() - began}
    return _summary(setup, frontiers, learned, graded, seconds)


def _summary(setup, frontiers, learned, graded, seconds) -> dict[str, Any]:
    config = setup.config
    # What the process read that wrote them: on a mounted bucket others may not see all of it yet.
    lines = hosts.gather(metrics.read(setup.workdir.metrics) if hosts.is_first() else None)[0]
    count = len(next(iter(graded.values())).texts) // config.evaluation.samples
    for line in lines:
        stage = line["stage"]
        seconds[stage] = seconds.get(stage, 0.0) + line["time/seconds"]
    last = [line for line in lines if line["stage"] == trainer.STAGE][-1]
    calls = {use: last.get(f"calls/{use}", 0.0) for use in ("rollout", "update")}
    calls["pretrain"] = 0 if config.init_from else config.pretrain.steps * config.pretrain.batch
    calls["evaluation"] = float(sum(g.rollout.nfe.sum() for g in graded.values()))
    scores = {name: setup.task.scores(g.examples, g.texts) for name, g in graded.items()}
    outcomes = {name: evaluate.outcomes(g, config.evaluation.samples) for name, g in graded.items()}
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
    extra = {
        "by_difficulty": difficulty,
        "scores": scores,
        "train_test_overlap": setup.task.overlap(),
    }
    return summary_lib.make_summary(
        base_frontier=frontiers["base"],
        trained_frontier=frontiers["trained"],
        learned=learned,
        gains=statistics.paired_gains(
            curves["base"], curves["trained"], outcomes.get("learned"), seed=config.seed
        ),
        wall_seconds=seconds,
        denoiser_calls=calls,
        prompts=count,
        seed=config.seed,
        method=config.method,
        mode=config.mode,
        rule=config.sampler.rule,
        dial=DIALS[config.sampler.rule],
        commit=workdir_lib.commit(),
        versions=workdir_lib.versions(),
        extra=extra,
    )


def _initial_state(setup: Setup, make: Callable[[Params], TrainState]) -> TrainState:
    """Parameters and optimiser state, made where they belong: no device holds all of them."""

    def init(key):
        return make(setup.policy.init(key))

    key = rng.key_for(setup.config.seed, "init")
    layout = sharding.shardings(jax.eval_shape(init, key), setup.mesh)
    return jax.jit(init, out_shardings=layout)(key)


def _published(config: Config, state: TrainState) -> TrainState:
    """The state with published weights for the denoiser; the threshold head stays as it began.

    Optimiser moments are zero whatever the parameters, so they need not be made again.
    """
    directory = huggingface.locate(config.model.weights)
    huggingface.check_config(directory, config.model)
    layout = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        state.params["denoiser"],
    )
    # Freed first: two copies of the weights need not fit.
    jax.tree.map(lambda x: x.delete(), state.params["denoiser"])
    read = huggingface.read_into(directory, layout, config.model.family)
    _say(f"base model: from {directory}")
    return state._replace(params={**state.params, "denoiser": read})


def _iterator(setup: Setup, batch: int, stage: str) -> Any:
    # Pretraining and RL each go through their data in an order of their own.
    if stage == pretrain.STAGE:
        examples, encoding = setup.demonstrations, _demonstration_lengths(setup.config)
    else:
        examples, encoding = setup.task.examples("train"), _lengths(setup.config)
    seed = 2 * setup.config.seed + (stage == trainer.STAGE)
    return prompts.make_iterator(examples, setup.tokenizer, batch=batch, seed=seed, **encoding)


def _resume(
    setup: Setup,
    saved: checkpoints.Checkpoints,
    state: TrainState,
    iterator: Any,
    stage: str,
    last: int,
) -> tuple[int, TrainState, dict[str, Any]]:
    """The newest whole checkpoint of a stage, if any; metrics after it are cut off."""
    step = saved.latest()
    start, meta = 0, {}
    if step is not None:
        state, meta = saved.restore(step, state, iterator)
        start = step
        _say(f"{stage}: resuming after step {start}")
    order = (pretrain.STAGE, trainer.STAGE)

    def keep(line: dict[str, Any]) -> bool:
        if line["stage"] == stage:
            return step is not None and line["step"] <= step
        # What came after a stage counts only if the stage itself is still whole.
        return start == last or order.index(line["stage"]) < order.index(stage)

    setup.writer.cut_back(keep)
    return start, state, meta


def _lengths(config: Config) -> dict[str, Any]:
    return {"prompt_length": config.sampler.prompt_length, "length": config.sampler.length}


def _demonstration_lengths(config: Config) -> dict[str, Any]:
    if not config.pretrain.demonstrations.source:
        return _lengths(config)
    prompt, answer = config.demonstration_lengths
    truncate = config.pretrain.demonstrations.truncate
    lengths = {"prompt_length": prompt, "length": answer, "truncate": truncate}
    return lengths | {"where": demonstrations.WHERE}


def _slots(config: Config) -> int:
    # Slots of one queue are spread over devices badly; there every device's rows wait together.
    return config.sampler.slots if config.mesh.data * config.mesh.fsdp == 1 else 0


def _mesh_text(mesh: Mesh) -> str:
    sizes = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in mesh.axis_names)
    return f"{sizes} ({mesh.devices.flat[0].device_kind})"


def _write_samples(setup: Setup, name: str, rows: list[dict[str, Any]]) -> None:
    if hosts.is_first():
        files.write_jsonl(setup.workdir.samples / f"{name}.jsonl", rows)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
