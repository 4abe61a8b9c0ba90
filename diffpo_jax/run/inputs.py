"""Digests of what a run reads, and the check that it reads the same when it is resumed.

Examples are compared as the model and the grader get them, whether they are generated or come from
files, directories or the hub; functions of the user's by the files that define them; tokenizers by
their tokens; published weights by a part of every file; and the base model of another run by all
its numbers.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from diffpo_jax.arrays.fingerprint import fingerprint
from diffpo_jax.arrays.types import Params
from diffpo_jax.config import Config
from diffpo_jax.data import tokenizers
from diffpo_jax.distributed import hosts
from diffpo_jax.models import huggingface
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.progress import say
from diffpo_jax.tasks import functions
from diffpo_jax.tasks.generated import Generated
from diffpo_jax.tasks.jsonl import Jsonl
from diffpo_jax.tasks.own_reward import unwrap
from diffpo_jax.tasks.task import SPLITS, Example, Task
from diffpo_jax.workdir import checkpoints, inputs, layout
from diffpo_jax.workdir.inputs import Input

TRAIN, VALIDATION, TEST = "train", "validation", "test"
REWARD, GRADER, TASK = FUNCTIONS = "reward", "grader", "task"
DEMONSTRATIONS, TOKENIZER, WEIGHTS, BASE = "demonstrations", "tokenizer", "weights", "base"

# Tokenizers of equal tokens are told apart by how they divide this.
_PROBE = "Reach 100 by 3, 5 and 12: (12+8)*5=100.\n<answer>\\boxed{x^2}</answer> naïve Straße 数学"


class Digest:
    """A running digest of examples, without their ids."""

    def __init__(self) -> None:
        self._hash, self.rows = hashlib.sha256(), 0

    def add(self, examples: Iterable[Example]) -> None:
        for x in examples:
            values = [x.prompt, x.target, x.meta, x.prefill, x.chat]
            self._hash.update(_json(values))
            self.rows += 1

    def as_input(self, field: str, what: str) -> Input:
        return Input(field, what, self._hash.hexdigest(), self.rows)


def digests(task: Task) -> dict[str, Digest]:
    """The digest of each split of a task."""
    result = {split: Digest() for split in SPLITS}
    for split, digest in result.items():
        digest.add(task.examples(split))
    return result


def of_examples(config: Config, task: Task, digests: Mapping[str, Digest]) -> dict[str, Input]:
    """The inputs of a task's splits, by their digests."""
    own, generated = config.task, f"config.task.name={config.task.name}"
    train = f"config.task.train_file={own.train_file}" if own.train_file else generated
    fields = {
        TRAIN: train,
        VALIDATION: generated if isinstance(unwrap(task), Generated) else train,
        TEST: f"config.task.test_file={own.test_file}" if own.test_file else generated,
    }
    words = {TRAIN: "training", VALIDATION: "validation", TEST: "test"}
    return {name: digests[name].as_input(fields[name], f"{words[name]} examples") for name in words}


def of_functions(config: Config) -> dict[str, Input]:
    """The inputs of the user's own reward, grader and task: the files that define them."""
    own, found = config.task, {}
    specs = {REWARD: ("config.task.reward", own.reward), TASK: ("config.task.name", own.name)}
    if own.name == Jsonl.name:
        specs[GRADER] = ("config.task.jsonl.grader", own.jsonl.grader)
    for name, (field, spec) in specs.items():
        if functions.is_function(spec):
            file, sha256 = functions.source(spec, field)
            found[name] = Input(f"{field}={spec}", f"lines of {file}", sha256)
    return found


def of_demonstrations(config: Config, examples: Iterable[Example]) -> dict[str, Input]:
    """The input of a run's own demonstrations; none if it shows the task's examples, or none."""
    source = config.pretrain.demonstrations.source
    if not source or not config.pretrain.steps or config.init_from:
        return {}
    digest, field = Digest(), f"config.pretrain.demonstrations.source={source}"
    digest.add(examples)
    return {DEMONSTRATIONS: digest.as_input(field, "demonstrations")}


def of_tokenizer(config: Config, tokenizer: Any) -> dict[str, Input]:
    """The input of a loaded tokenizer; none for "char", which the configuration describes."""
    name = config.tokenizer.name
    if name == "char":
        return {}
    content = [
        sorted(tokenizer.get_vocab().items()),
        tokenizer(_PROBE, add_special_tokens=False)["input_ids"],
        tokenizers.special_ids(tokenizer),
        tokenizers.end_ids(tokenizer),
        tokenizers.closing_ids(tokenizer),
        tokenizer.chat_template,
    ]
    sha256 = hashlib.sha256(_json(content)).hexdigest()
    return {TOKENIZER: Input(f"config.tokenizer.name={name}", "tokens", sha256)}


def of_weights(config: Config) -> dict[str, Input]:
    """The input of published weights; none if a run begins with others."""
    weights = config.model.weights
    if not weights or config.init_from:
        return {}
    sha256 = huggingface.quick_fingerprint(huggingface.locate(weights))
    return {WEIGHTS: Input(f"config.model.weights={weights}", "weights", sha256)}


def of_base(config: Config, base: Params) -> dict[str, Input]:
    """The input of another run's base model; none if a run makes its own."""
    if not config.init_from:
        return {}
    field = f"config.init_from={config.init_from}"
    return {BASE: Input(field, "parameters of the base model", fingerprint(base))}


def check(workdir: layout.Workdir, new: Mapping[str, Input]) -> None:
    """Records what a run reads, if it is new, and otherwise compares with what it read before.

    Raises:
      UserError: the run is resumed and reads something else; or the processes of a run read
        something different. It is raised on every process.
    """
    everyone = hosts.gather({name: list(value) for name, value in new.items()})
    for number, other in enumerate(everyone):
        for name, value in other.items():
            if value != everyone[0][name]:
                raise UserError(
                    f"{value[0]}: process {number} reads other {value[1]} than process 0. Give all "
                    "hosts the same files."
                )
    hosts.in_turn(lambda: _compare(workdir, new) if hosts.is_first() else None)


def refuse_changes(workdir: layout.Workdir, new: Mapping[str, Input]) -> None:
    """Raises `UserError` if something is not what the run in a workdir read; records nothing."""
    _refuse(inputs.differences(inputs.read(workdir.inputs), new))


def check_weights(workdir: layout.Workdir, config: Config) -> None:
    """Raises `UserError` if the published weights of the run in a workdir have changed since."""
    recorded = inputs.read(workdir.inputs)
    if WEIGHTS in recorded:
        _refuse(inputs.differences(recorded, of_weights(config)))


def _compare(workdir: layout.Workdir, new: Mapping[str, Input]) -> None:
    old = inputs.read(workdir.inputs)
    # Before its first checkpoint a run starts over, and mixes nothing.
    if any(checkpoints.latest_step(path) is not None for path in (workdir.base, workdir.rl)):
        _refuse(inputs.differences(old, new))
        # Functions are as old as their record, which a user may delete to go on with others.
        known = {*old, *FUNCTIONS}
        unknown = [value.what for name, value in new.items() if name not in known]
        if unknown:
            say(
                f"note: {workdir.root} was begun by an older version, so that it cannot be checked "
                f"whether its {', '.join(unknown)} have changed; {workdir.inputs.name} records "
                "them now."
            )
    if old != (old | new):
        inputs.write(workdir.inputs, old | new)


def _refuse(differences: Mapping[str, str]) -> None:
    if not differences:
        return
    hint = "To go on, put the old ones back; for new ones use another --workdir, or --overwrite."
    if differences.keys() == {TEST}:
        hint = (
            "To go on, put the old ones back, or give the new ones another name in "
            "config.task.test_file."
        )
    if differences.keys() <= set(FUNCTIONS):
        hint = (
            f"To go on, put the old ones back, or delete {' and '.join(differences)} from "
            "inputs.json in the workdir, and what follows is trained with the new ones."
        )
    raise UserError(f"{'; '.join(differences.values())}. {hint}")


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode() + b"\n"
