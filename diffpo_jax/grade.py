"""Grades completions in files, without a model and without jax.

    python -m diffpo_jax.grade --file=runs/gsm8k/samples/test.jsonl --task=gsm8k --protocol=d1

Reads what a run writes to samples/, and the JSON files of d1's evaluation (`tasks.generations`
says more); `--file` may be given several times.  Prints the accuracy, and pass@k where problems
have several completions.  Writes a line of JSON for each completion to `--out`: the verdict, the
answer that was read, and every reward of the task.
"""

import math
import pathlib
import typing
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from diffpo_jax import tasks
from diffpo_jax.analysis import bootstrap
from diffpo_jax.config import PromptConfig, TaskConfig, command
from diffpo_jax.config.fields import AnswerFormat, ProtocolName
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import generations
from diffpo_jax.tasks.datasets.generations import Generation
from diffpo_jax.tasks.task import Reward

_FILE = flags.DEFINE_multi_string("file", [], "A file of completions; may be repeated.")
_TASK = flags.DEFINE_enum("task", None, list(tasks.TASKS), "The task that they are of.")
_PROTOCOL = flags.DEFINE_enum(
    "protocol", "default", typing.get_args(ProtocolName), "Whose verdicts are given."
)
_ANSWER = flags.DEFINE_enum(
    "answer", "tags", typing.get_args(AnswerFormat), "How answers are marked (not for d1)."
)
_OUT = flags.DEFINE_string("out", None, "File for the verdicts; default: FILE.verdicts.jsonl.")


def main(argv: Sequence[str]) -> None:
    command.require_flags(argv, ("file", "task"), __doc__.splitlines()[2].strip())
    out = _OUT.value or str(pathlib.Path(_FILE.value[0]).with_suffix(".verdicts.jsonl"))
    if pathlib.Path(out).resolve() in [pathlib.Path(f).resolve() for f in _FILE.value]:
        raise UserError(f"--out={out} is a file of completions, which would be lost.")
    found = [g for path in _FILE.value for g in generations.read(path, _TASK.value)]
    config = TaskConfig(
        name=_TASK.value,
        protocol=_PROTOCOL.value,
        prompt=PromptConfig(answer=_ANSWER.value),
    )
    task = tasks.make_task(config, pathlib.Path())
    examples, completions = [g.example for g in found], [g.completion for g in found]
    rewards = task.rewards(examples, completions)
    scores = task.scores(examples, completions)
    try:
        files.write_jsonl(out, [verdict(g, r) for g, r in zip(found, rewards)])
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error}.") from error
    print(summary(found, rewards, scores))
    print(f"{'verdicts':<22} {out}")


def verdict(generation: Generation, reward: Reward) -> dict[str, Any]:
    """What is written of one completion."""
    return {
        "id": generation.example.id,
        "place": generation.where,
        "correct": reward.correct,
        "parsed": reward.parsed,
        "answer": reward.answer,
        "reward": reward.total,
        "parts": dict(reward.parts),
    }


def summary(
    found: Sequence[Generation], rewards: Sequence[Reward], scores: Mapping[str, float]
) -> str:
    """Accuracy, pass@k, answers that were not read, the mean of every reward, the task's scores."""
    right, rows = sum(r.correct for r in rewards), len(rewards)
    by_problem = defaultdict(list)
    for generation, reward in zip(found, rewards):
        by_problem[generation.example.id].append(reward.correct)
    table = {"completions": f"{rows} of {len(by_problem)} problems"}
    table["accuracy"] = f"{right / rows:.4f}  ({right} of {rows})"
    table |= {
        f"pass@{k}": f"{v:.4f}" for k, v in bootstrap.pass_at_k(list(by_problem.values())).items()
    }
    table["no answer read"] = str(sum(not r.parsed for r in rewards))
    for name in rewards[0].parts:
        mean = math.fsum(r.parts[name] for r in rewards) / rows
        table[f"reward {name}"] = f"{mean:.4f}"
    table |= {name: f"{value:.4f}" for name, value in scores.items()}
    return "\n".join(f"{name:<22} {value}" for name, value in table.items())


if __name__ == "__main__":
    command.run(main)
