"""Grades completions in files, without a model and without jax.

    python -m diffpo_jax.grade --file=runs/gsm8k/samples/test.jsonl --task=gsm8k --protocol=d1

Reads the files that a run writes to samples/, and the JSON files of d1's evaluation (see
`tasks.datasets.generations`); `--file` may be given several times.  Prints the accuracy, and pass@k
if problems have several completions.  Writes a line of JSON for each completion to `--out`: the
verdict, the answer that was read, and every reward of the task.
"""

import math
import pathlib
import sys
import typing
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from diffpo_jax import tasks
from diffpo_jax.analysis import bootstrap
from diffpo_jax.config import JsonlConfig, PromptConfig, TaskConfig, command
from diffpo_jax.config.fields import AnswerFormat, ProtocolName
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import generations
from diffpo_jax.tasks.datasets.generations import Generation
from diffpo_jax.tasks.task import Reward, check_finite

_FILE = flags.DEFINE_multi_string("file", [], "A file of completions; may be repeated.")
_TASK = flags.DEFINE_string("task", None, "The task of the completions, as config.task.name.")
_GRADER = flags.DEFINE_string("grader", "exact", "Grader of the task jsonl.")
_REGEX = flags.DEFINE_string("regex", None, "Pattern of its grader regex.")
_PROTOCOL = flags.DEFINE_enum(
    "protocol", "default", typing.get_args(ProtocolName), "Whose rules decide the verdicts."
)
_ANSWER = flags.DEFINE_enum(
    "answer", "tags", typing.get_args(AnswerFormat), "How answers are marked (not for d1)."
)
_OUT = flags.DEFINE_string("out", None, "File for the verdicts; default: FILE.verdicts.jsonl.")


def main(argv: Sequence[str]) -> None:
    command.require_flags(argv, ("file", "task"), __doc__.splitlines()[2].strip())
    out = _OUT.value or str(pathlib.Path(_FILE.value[0]).with_suffix(".verdicts.jsonl"))
    if pathlib.Path(out).resolve() in [pathlib.Path(f).resolve() for f in _FILE.value]:
        raise UserError(f"--out={out} would overwrite a file of completions.")
    files.check_target(out, "--out")
    config = TaskConfig(
        name=_TASK.value,
        protocol=_PROTOCOL.value,
        prompt=PromptConfig(answer=_ANSWER.value),
        jsonl=JsonlConfig(grader=_GRADER.value, regex=_REGEX.value),
    )
    task = tasks.make_task(config, pathlib.Path())
    records = [g for path in _FILE.value for g in generations.read(path, _TASK.value)]
    examples, completions = [g.example for g in records], [g.completion for g in records]
    rewards = task.rewards(examples, completions)
    check_finite(rewards, examples, task.name)
    scores = task.scores(examples, completions)
    with files.explained(out, "--out"):
        files.write_jsonl(out, [verdict(g, r) for g, r in zip(records, rewards)])
    print(summary(records, rewards, scores))
    print(f"{'verdicts':<22} {out}")
    if not any(reward.parsed for reward in rewards):
        print(
            f"warning: no answer was found in any of {len(rewards)} completions; --answer says how "
            f"they are marked, now {_ANSWER.value}: try {', '.join(_other_answers())}.",
            file=sys.stderr,
        )


def _other_answers() -> list[str]:
    return [name for name in typing.get_args(AnswerFormat) if name != _ANSWER.value]


def verdict(generation: Generation, reward: Reward) -> dict[str, Any]:
    """The line of the verdicts file for one completion."""
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
    records: Sequence[Generation], rewards: Sequence[Reward], scores: Mapping[str, float]
) -> str:
    """The printed table: accuracy, pass@k, unread answers, mean rewards, and the task's scores."""
    right, rows = sum(r.correct for r in rewards), len(rewards)
    by_problem = defaultdict(list)
    for generation, reward in zip(records, rewards):
        by_problem[generation.example.id].append(reward.correct)
    table = {"completions": f"{rows} of {len(by_problem)} problems"}
    table["accuracy"] = f"{right / rows:.4f}  ({right} of {rows})"
    pass_at_k = bootstrap.pass_at_k(list(by_problem.values()))
    table |= {f"pass@{k}": f"{value:.4f}" for k, value in pass_at_k.items()}
    table["no answer read"] = str(sum(not r.parsed for r in rewards))
    for name in rewards[0].parts:
        mean = math.fsum(r.parts[name] for r in rewards) / rows
        table[f"reward {name}"] = f"{mean:.4f}"
    table |= {name: f"{value:.4f}" for name, value in scores.items()}
    return "\n".join(f"{name:<22} {value}" for name, value in table.items())


if __name__ == "__main__":
    command.run(main)
