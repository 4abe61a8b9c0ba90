"""What every stage of a run uses, made once: data, programs, the writer; how a stage resumes."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from diffpo_jax import tasks
from diffpo_jax.arrays.types import TrainState
from diffpo_jax.config import Config, check, convert
from diffpo_jax.data import prompts, tokenizers
from diffpo_jax.distributed import chips, hosts, sharding
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.evaluation import evaluator as evaluation
from diffpo_jax.models import families, huggingface
from diffpo_jax.models.policy import Policy
from diffpo_jax.rl import trainer
from diffpo_jax.run import pretrain
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.progress import say
from diffpo_jax.tasks.datasets import demonstrations
from diffpo_jax.tasks.task import Example, Task
from diffpo_jax.workdir import checkpoints, layout, metrics, provenance, trackers


class Setup(NamedTuple):
    """What every stage uses."""

    config: Config
    workdir: layout.Workdir
    mesh: Mesh
    task: Task
    demonstrations: Sequence[Example]  # what the base model is trained on
    tokenizer: Any
    policy: Policy
    writer: metrics.MetricsWriter
    evaluator: evaluation.Evaluator


def prepare(config: Config, workdir: layout.Workdir) -> Setup:
    """Devices, data and programs; whatever is wrong with the input shows here."""
    mesh = mesh_lib.make_mesh(config.mesh)
    if hosts.is_first():
        files.write_json(workdir.run_info, provenance.run_info(_mesh_text(mesh)))
    data_dir = pathlib.Path(config.task.data_dir) if config.task.data_dir else workdir.data
    # The first to come writes the data set, where it is a generated one.
    task = hosts.in_turn(lambda: tasks.make_task(config.task, data_dir))
    tokenizer = tokenizers.make_tokenizer(config.tokenizer)
    check_examples(config, task, tokenizer)
    shown = shown_examples(config, task, tokenizer)
    policy = make_policy(config, tokenizer, mesh)
    writer = make_writer(config, workdir, first=hosts.is_first())
    evaluator = evaluation.make_evaluator(
        policy,
        config.decoder,
        config.evaluation,
        task,
        tokenizer,
        mesh,
        config.seed,
        slots(config),
    )
    return Setup(config, workdir, mesh, task, shown, tokenizer, policy, writer, evaluator)


def make_writer(config: Config, workdir: layout.Workdir, *, first: bool) -> metrics.MetricsWriter:
    """Where metrics go; of several processes the first alone writes, and has trackers.

    Raises:
      UserError: a tracker's package is missing; a damaged file.
    """
    if not first:
        return metrics.MetricsWriter(os.devnull)
    whole = json.loads(convert.to_json(config))
    return metrics.MetricsWriter(
        workdir.metrics, trackers.make(config.logging, workdir.root, whole)
    )


def with_network_of(config: Config, run: Config) -> Config:
    """The configuration with the network of a run, and what reads and writes for it."""
    own = ("lora", "threshold", "tokenizer")
    # The way of attention is for the devices at hand, which need not be the run's.
    model = dataclasses.replace(run.model, attention=config.model.attention)
    return dataclasses.replace(config, model=model, **{name: getattr(run, name) for name in own})


def with_weights(config: Config) -> Config:
    """The configuration with family and sizes of the published weights it names, checked again.

    Raises:
      UserError: no such weights; what they are does not go with the rest.
    """
    config = dataclasses.replace(config, model=huggingface.adopt(config.model))
    check.check(config)
    return config


def make_policy(config: Config, tokenizer: Any, mesh: Mesh) -> Policy:
    """The network of a configuration, for the devices of a mesh.

    Raises:
      UserError: the tokenizer has more tokens than the weights.
    """
    tokens, rows = len(tokenizer), config.model.vocab
    if rows and rows < tokens:
        raise UserError(
            f"config.model.vocab={rows} is less than the {tokens} tokens of config.tokenizer: "
            "they do not belong together."
        )
    return families.make_policy(
        config.model,
        config.threshold,
        config.lora,
        vocab=rows or tokens,
        mask_id=tokenizers.special_ids(tokenizer).mask,
        platform=chips.platform(mesh.devices.flat[0]),
        rows=sharding.batch_sharding(mesh) if mesh.size > 1 else None,
    )


def check_examples(config: Config, task: Task, tokenizer: Any) -> None:
    """Encodes every example once: one that does not fit must not stop a run on its third day."""
    for split in ("train", "validation", "test"):
        _encode_all(task.examples(split), tokenizer, _lengths(config))
    if task.overlap():
        say(f"note: {task.overlap()} test prompts are training prompts too.")


def shown_examples(config: Config, task: Task, tokenizer: Any) -> Sequence[Example]:
    """What the base model is trained on: rows of its own, checked like the task's, or those."""
    stage = config.pretrain
    if not stage.demonstrations.source or not stage.steps or config.init_from:
        return task.examples("train")
    shown, lengths = demonstrations.read(stage.demonstrations), _demonstration_lengths(config)
    _encode_all(shown, tokenizer, lengths)
    return shown


def iterator(setup: Setup, batch: int, stage: str) -> Any:
    """The batches of a stage, encoded, in an order that its seed decides: a grain iterator."""
    # Pretraining and RL each go through their data in an order of their own.
    if stage == pretrain.STAGE:
        examples, encoding = setup.demonstrations, _demonstration_lengths(setup.config)
    else:
        examples, encoding = setup.task.examples("train"), _lengths(setup.config)
    seed = 2 * setup.config.seed + (stage == trainer.STAGE)
    return prompts.make_iterator(examples, setup.tokenizer, batch=batch, seed=seed, **encoding)


def resume(
    setup: Setup,
    saved: checkpoints.Checkpoints,
    shapes: TrainState,
    fresh: Callable[[], TrainState],
    data: Any,
    stage: str,
    last: int,
) -> tuple[int, TrainState, dict[str, Any]]:
    """The newest whole checkpoint of a stage, or a fresh state; metrics after it are cut off.

    Args:
      shapes: of the state, with shardings.
      fresh: makes the state at step 0; not called where there is a checkpoint.
      data: the stage's iterator; it is set to the checkpoint's position.
      last: the stage's last step.
    """
    start, meta = saved.latest(), {}
    if start is None:
        state = fresh()
    else:
        state, meta = saved.restore(start, shapes, data)
        say(f"{stage}: resuming after step {start}")
    order = (pretrain.STAGE, trainer.STAGE)

    def keep(line: dict[str, Any]) -> bool:
        if line["stage"] == stage:
            return start is not None and line["step"] <= start
        # What came after a stage counts only if the stage itself is still whole.
        return start == last or order.index(line["stage"]) < order.index(stage)

    setup.writer.cut_back(keep)
    return start or 0, state, meta


def write_samples(setup: Setup, name: str, rows: list[dict[str, Any]]) -> None:
    """Writes samples/NAME.jsonl, from one process."""
    if hosts.is_first():
        files.write_jsonl(setup.workdir.samples / f"{name}.jsonl", rows)


def slots(config: Config) -> int:
    """Rows in flight of rollouts and evaluations; 0 for a static batch."""
    # Slots of one queue are spread over devices badly; there every device's rows wait together.
    return config.sampler.slots if config.mesh.data * config.mesh.fsdp == 1 else 0


def _encode_all(examples: Sequence[Example], tokenizer: Any, encoding: dict[str, Any]) -> None:
    for _ in prompts.batches_in_order(examples, tokenizer, batch=1024, **encoding):
        pass


def _lengths(config: Config) -> dict[str, Any]:
    return {"prompt_length": config.sampler.prompt_length, "length": config.sampler.length}


def _demonstration_lengths(config: Config) -> dict[str, Any]:
    if not config.pretrain.demonstrations.source:
        return _lengths(config)
    prompt, answer = config.demonstration_lengths
    truncate = config.pretrain.demonstrations.truncate
    lengths = {"prompt_length": prompt, "length": answer, "truncate": truncate}
    return lengths | {"where": demonstrations.WHERE}


def _mesh_text(mesh: Mesh) -> str:
    sizes = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in mesh.axis_names)
    return f"{sizes} ({mesh.devices.flat[0].device_kind})"
