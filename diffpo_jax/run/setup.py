"""What every stage of a run uses: data, mesh, tokenizer, network, evaluator and metrics writer."""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from diffpo_jax import tasks
from diffpo_jax.config import RANKINGS, Config, SamplerConfig, check, convert
from diffpo_jax.data import prompts, tokenizers
from diffpo_jax.diffusion import sampler
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.distributed import chips, hosts, sharding
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.evaluation import evaluator
from diffpo_jax.models import families, flops, huggingface
from diffpo_jax.models.policy import Policy
from diffpo_jax.rl import step as rl_step
from diffpo_jax.run import inputs, sizes, trained
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.progress import say
from diffpo_jax.tasks.datasets import demonstrations
from diffpo_jax.tasks.own_reward import OwnReward
from diffpo_jax.tasks.task import SPLITS, Example, Task
from diffpo_jax.workdir import layout, metrics, provenance, trackers
from diffpo_jax.workdir.inputs import Input

# The training stages in their order, by the names that metrics.jsonl has.
STAGES = PRETRAIN, RL = "pretrain", "rl"


class Setup(NamedTuple):
    """What every stage uses."""

    config: Config
    workdir: layout.Workdir
    mesh: Mesh
    task: Task
    demonstrations: Sequence[Example]  # examples for SFT
    tokenizer: Any
    policy: Policy
    writer: metrics.MetricsWriter
    evaluator: evaluator.Evaluator
    inputs: Mapping[str, Input]  # what the run reads
    parameters: Sequence[sharding.Leaf]  # and how the mesh holds them


def prepare(config: Config, workdir: layout.Workdir) -> Setup:
    """Prepares a run.

    Raises:
      UserError: the mesh, the data, the tokenizer or the network do not fit the configuration or
        each other.
    """
    mesh = mesh_lib.make_mesh(config.mesh)
    task = make_task(config, workdir)
    config = with_alphabet(config, task)
    tokenizer = tokenizers.make_tokenizer(config.tokenizer)
    config = with_sizes(config, tokenizer, mesh)
    digests = check_examples(config, task, tokenizer)
    if isinstance(task, OwnReward):
        task.try_out()
    shown = sft_examples(config, task, tokenizer)
    policy = make_policy(config, tokenizer, mesh)
    return Setup(
        config=config,
        workdir=workdir,
        mesh=mesh,
        task=task,
        demonstrations=shown,
        tokenizer=tokenizer,
        policy=policy,
        writer=make_writer(config, workdir, first=hosts.is_first()),
        evaluator=_make_evaluator(config, config.decoder, policy, task, tokenizer, mesh),
        inputs=inputs.of_examples(config, task, digests)
        | inputs.of_demonstrations(config, shown)
        | inputs.of_functions(config)
        | inputs.of_tokenizer(config, tokenizer)
        | inputs.of_weights(config),
        parameters=sharding.leaves(trained.shapes(policy, mesh, config.model.quantized), mesh),
    )


def record(setup: Setup, config: Config) -> None:
    """Writes config.json and run_info.json: from now on the workdir is this run's.

    Args:
      config: the configuration as it was given; that of `setup` has sizes for this machine.
    """
    hosts.in_turn(lambda: layout.record(setup.workdir, config))
    if hosts.is_first():
        info = provenance.run_info(_mesh_text(setup.mesh))
        info["parameters"] = [leaf._asdict() for leaf in setup.parameters]
        files.write_json(setup.workdir.run_info, info)


def make_task(config: Config, workdir: layout.Workdir) -> Task:
    """The task of a run.  Raises `UserError` for its settings and files."""
    data_dir = pathlib.Path(config.task.data_dir) if config.task.data_dir else workdir.data
    # The first process writes a generated data set; the others wait and read it.
    metrics = config.evaluation.metrics
    return hosts.in_turn(lambda: tasks.make_task(config.task, data_dir, metrics))


def base_evaluator(setup: Setup) -> evaluator.Evaluator:
    """The evaluator of the base, which cannot decode by a head that it does not have."""
    rule = setup.config.base_rule
    own = rule == setup.config.sampler.rule
    return setup.evaluator if own else evaluator_of_rule(setup, rule)


def evaluator_of_rule(setup: Setup, rule: str) -> evaluator.Evaluator:
    """The evaluator of a run under another commit rule, with the rule's first ranking."""
    config, ranking = setup.config, RANKINGS[rule][0]
    decoder = dataclasses.replace(config.decoder, rule=rule, ranking=ranking)
    return _make_evaluator(config, decoder, setup.policy, setup.task, setup.tokenizer, setup.mesh)


def _make_evaluator(
    config: Config, decoder: SamplerConfig, policy: Policy, task: Task, tokenizer: Any, mesh: Mesh
) -> evaluator.Evaluator:
    return evaluator.make_evaluator(
        policy, decoder, config.evaluation, task, tokenizer, mesh, config.seed, slots(config)
    )


def make_writer(config: Config, workdir: layout.Workdir, *, first: bool) -> metrics.MetricsWriter:
    """The writer of metrics.jsonl; only the first of several processes writes and has trackers.

    Raises:
      UserError: the package of a tracker is missing; the file is damaged.
    """
    if not first:
        return metrics.MetricsWriter(os.devnull)
    whole = json.loads(convert.to_json(config))
    return metrics.MetricsWriter(
        workdir.metrics, trackers.make(config.logging, workdir.root, whole)
    )


def with_network_of(config: Config, run: Config) -> Config:
    """A configuration with the network of a run, its adapter, threshold head and tokenizer."""
    own = ("lora", "threshold", "state_head", "tokenizer")
    # The attention kernel depends on the devices in use, which need not be the run's.
    model = dataclasses.replace(run.model, attention=config.model.attention)
    return dataclasses.replace(config, model=model, **{name: getattr(run, name) for name in own})


def with_weights(config: Config) -> Config:
    """A configuration with the family and sizes of the published weights it names, checked again.

    Raises:
      UserError: there are no such weights, or their sizes do not fit the rest.
    """
    config = dataclasses.replace(config, model=huggingface.adopt_sizes(config.model))
    check.check(config)
    return config


def with_alphabet(config: Config, task: Task) -> Config:
    """A configuration with the characters of the training examples in place of an alphabet None.

    Examples for evaluation count as well, but not those of a test file, which may change.  A run
    that starts from another's base model has the alphabet of that.

    Raises:
      UserError: `config.init_from` holds no run.
    """
    own = config.tokenizer
    if own.name != "char" or own.alphabet is not None:
        return config
    if config.init_from:
        other = layout.read_config(layout.Workdir(pathlib.Path(config.init_from)))
        return dataclasses.replace(config, tokenizer=other.tokenizer)
    splits = [split for split in SPLITS if split != "test" or not config.task.test_file]
    examples = itertools.chain.from_iterable(map(task.examples, splits))
    own = dataclasses.replace(own, alphabet=tokenizers.alphabet_of(examples))
    return dataclasses.replace(config, tokenizer=own)


def with_sizes(config: Config, tokenizer: Any, mesh: Mesh) -> Config:
    """A configuration with the sizes that suit the machine in place of "auto"."""
    device = mesh.devices.flat[0]
    vocab = config.model.vocab or len(tokenizer)
    return sizes.resolve(config, chips.platform(device), vocab, chips.memory(device))


def make_policy(config: Config, tokenizer: Any, mesh: Mesh) -> Policy:
    """The network of a configuration, for the devices of a mesh.

    Raises:
      UserError: the tokenizer has more tokens than the weights have rows.
    """
    tokens, rows = len(tokenizer), config.model.vocab
    if rows and rows < tokens:
        raise UserError(
            f"config.model.vocab={rows} is less than the {tokens} tokens of config.tokenizer: "
            "they do not belong together."
        )
    mask = tokenizers.special_ids(tokenizer).mask
    return policy_of_vocabulary(
        config, vocab=rows or tokens, tokens=tokens, mask_id=mask, mesh=mesh
    )


def policy_of_vocabulary(
    config: Config, *, vocab: int, tokens: int | None = None, mask_id: int, mesh: Mesh
) -> Policy:
    """The network of a configuration for a vocabulary of V tokens; nothing is allocated.

    Args:
      tokens: how many of them the tokenizer has, if that is known.
    """
    return families.make_policy(
        config.model,
        config.threshold,
        config.lora,
        config.state_head,
        places=config.largest_block,
        vocab=vocab,
        tokens=tokens,
        mask_id=mask_id,
        platform=chips.platform(mesh.devices.flat[0]),
        rows=sharding.batch_sharding(mesh) if mesh.size > 1 else None,
    )


def rollout_settings(config: Config, end_ids: tuple[int, ...]) -> SamplerSettings:
    """How the sampler makes rollouts."""
    return sampler.make_settings(
        config.sampler,
        config.sampler.temperature,
        end_ids,
        config.threshold.scope,
        rl_step.rows_per_prompt(config.rl, config.mesh.batch_devices),
        recorded(config),
    )


def check_examples(config: Config, task: Task, tokenizer: Any) -> dict[str, inputs.Digest]:
    """Encodes every example once, so that one that does not fit cannot stop a run days later.

    Returns the digest of each split.

    Raises:
      UserError: an example does not fit; the message says how long the longest are.
    """
    digests = {split: inputs.Digest() for split in SPLITS}
    try:
        for split, digest in digests.items():
            _encode_all(task.examples(split), tokenizer, _lengths(config), digest)
    except prompts.TooLong as error:
        sizes_of = [prompts.longest(list(task.examples(x)), tokenizer) for x in SPLITS]
        prompt, target = map(max, zip(*sizes_of))
        raise UserError(
            f"{error} Of all examples, the longest prompt has {prompt} tokens and the longest "
            f"target {target}."
        ) from error
    if task.overlap():
        say(f"note: {task.overlap()} test prompts are training prompts too.")
    return digests


def sft_examples(config: Config, task: Task, tokenizer: Any) -> Sequence[Example]:
    """The examples for SFT: those of `config.pretrain.demonstrations`, or the task's own.

    Raises:
      UserError: there are none of that difficulty, or fewer than `count`; a faulty file; an
        example that does not fit.
    """
    stage, rows = config.pretrain, config.pretrain.demonstrations
    examples = task.examples("train")
    if not stage.steps or config.init_from:
        return examples
    if rows.source:
        examples = _without_held_out(demonstrations.read(rows), task)
        _encode_all(examples, tokenizer, _demonstration_lengths(config))
    elif rows.difficulty:
        examples = _of_difficulty(examples, task, *rows.difficulty)
    if rows.count and rows.count > len(examples):
        raise UserError(
            f"config.pretrain.demonstrations.count={rows.count}, but there are only "
            f"{len(examples)} demonstrations. None shows them all."
        )
    return examples[: rows.count]


def _without_held_out(shown: Sequence[Example], task: Task) -> Sequence[Example]:
    """The demonstrations whose prompts are not those of validation or test examples."""
    held_out = {e.prompt for split in SPLITS if split != "train" for e in task.examples(split)}
    kept = [example for example in shown if example.prompt not in held_out]
    if not kept:
        raise UserError(
            "config.pretrain.demonstrations.source has only prompts of the task's validation and "
            "test examples, which are not trained on."
        )
    if left_out := len(shown) - len(kept):
        say(f"note: {left_out} demonstrations with validation or test prompts are left out.")
    return kept


def _of_difficulty(
    examples: Sequence[Example], task: Task, low: float, high: float
) -> Sequence[Example]:
    levels = [task.difficulty(example) for example in examples]
    kept = [example for example, level in zip(examples, levels) if low <= level <= high]
    if not kept:
        raise UserError(
            f"config.pretrain.demonstrations.difficulty={low:g},{high:g} leaves no training "
            f"example: those of {task.name} have {min(levels):g} to {max(levels):g}."
        )
    return kept


def iterator(setup: Setup, batch: int, stage: str) -> Any:
    """A grain iterator over a stage's encoded batches, in an order that the seed decides."""
    if stage == PRETRAIN:
        examples, encoding = setup.demonstrations, _demonstration_lengths(setup.config)
    else:
        examples, encoding = setup.task.examples("train"), _lengths(setup.config)
    # Each stage goes through its data in an order of its own.
    seed = 2 * setup.config.seed + STAGES.index(stage)
    return prompts.make_iterator(examples, setup.tokenizer, batch=batch, seed=seed, **encoding)


def demonstrations_of(setup: Setup, count: int) -> prompts.EncodedBatch:
    """The first examples that SFT shows, or would show, encoded."""
    examples = setup.demonstrations[:count]
    lengths = _demonstration_lengths(setup.config)
    indices = range(len(examples))
    return prompts.encode_examples(examples, setup.tokenizer, indices=indices, **lengths)


def write_samples(setup: Setup, name: str, rows: list[dict[str, Any]]) -> None:
    """Writes samples/NAME.jsonl, from one process."""
    if hosts.is_first():
        files.write_jsonl(setup.workdir.samples / f"{name}.jsonl", rows)


def slots(config: Config) -> int | None:
    """Slots of each device's continuous batch in rollouts and evaluations; None: a static batch.

    Args:
      config: with numbers in place of "auto" (`sizes.resolve`).
    """
    # A device with its own queue makes calls that others do not make with it, so it must hold all
    # parameters.  In a static batch the rows of all devices wait for the slowest together.
    whole = config.mesh.fsdp == config.mesh.tensor == 1
    return config.sampler.slots if whole else None


def network(config: Config, vocab: int) -> flops.Network:
    """What decides how much a call of a run computes."""
    head = config.state_head if config.sampler.rule == "state" else None
    return flops.Network(config.model, config.lora, vocab, head)


def recorded(config: Config) -> int:
    """Calls of each rollout whose decisions are recorded, for the head by state; 0 without one."""
    return config.rl.head.recorded if config.sampler.rule == "state" else 0


def _encode_all(
    examples: Sequence[Example],
    tokenizer: Any,
    encoding: dict[str, Any],
    digest: inputs.Digest | None = None,
) -> None:
    for start in range(0, len(examples), 1024):
        part = list(examples[start : start + 1024])  # made once, for both uses
        prompts.encode_examples(part, tokenizer, indices=range(len(part)), **encoding)
        if digest is not None:
            digest.add(part)


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
