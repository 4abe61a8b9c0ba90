"""docs/tasks.md: its tables of verdicts are true."""

import re
from pathlib import Path

import pytest

from diffpo_jax import tasks
from diffpo_jax.config import PromptConfig, TaskConfig
from diffpo_jax.tasks.task import Example

TEXT = (Path(__file__).parents[2] / "docs/tasks.md").read_text()
NAMES = {"GSM8K": "gsm8k", "MATH": "math500", "Countdown": "countdown", "Sudoku": "sudoku"}


def verdicts():
    """(task, completion, gold, ours, d1) of every row of the tables of verdicts."""
    for title, name in NAMES.items():
        section = TEXT.partition(f"\n### {title}\n")[2].partition("\n##")[0]
        for line in section.splitlines():
            cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
            if len(cells) == 5 and cells[2] in ("right", "wrong"):
                yield name, *cells[:4]


def example(task, gold):
    if task == "countdown":
        numbers, _, target = gold.partition(" = ")
        meta = {"numbers": [int(n) for n in numbers.split(",")], "target": int(target)}
    elif task == "sudoku":
        clues, _, solution = gold.partition(", ")
        meta = {"clues": clues, "solution": solution}
    else:
        meta = {"answer": gold}
    return Example("id", "?", gold, meta)


@pytest.fixture(scope="module")
def graders(tmp_path_factory):
    def make(name, protocol):
        prompt = PromptConfig(answer="tags")
        config = TaskConfig(
            name=name, protocol=protocol, prompt=prompt, grader_seconds=60.0, grader_processes=1
        )
        return tasks.make_task(config, tmp_path_factory.getbasetemp())

    made = {(n, p): make(n, p) for n in NAMES.values() for p in ("default", "d1")}
    made["math500", "d1"]._verifier = made["math500", "default"]._verifier  # one process for both
    yield made
    made["math500", "default"]._verifier.close()


@pytest.mark.parametrize(("task", "completion", "gold", "ours", "d1"), list(verdicts()))
def test_verdicts_are_as_written(graders, task, completion, gold, ours, d1):
    for protocol, verdict in (("default", ours), ("d1", d1)):
        reward = graders[task, protocol].reward(example(task, gold), completion)
        assert reward.correct == (verdict == "right"), (protocol, reward)


def kinds_of_math():
    """(gold, answer, whether it is right) of the table of kinds of answers to MATH."""
    section = TEXT.partition("\n### MATH\n")[2].partition("\n##")[0]
    for line in section.splitlines():
        cells = [re.findall("`([^`]*)`", cell) for cell in line.strip("|").split("|")]
        if len(cells) == 5 and len(cells[1]) == 1 and cells[2] and cells[3]:
            yield from ((cells[1][0], answer, True) for answer in [cells[1][0], *cells[2]])
            yield from ((cells[1][0], answer, False) for answer in cells[3])


def readings_of_numbers():
    """(answer, whether a number is read) of the table of kinds of answers to GSM8K."""
    section = TEXT.partition("\n### GSM8K\n")[2].partition("\n##")[0]
    for line in section.splitlines():
        cells = [re.findall("`([^`]*)`", cell) for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[1] and cells[2]:
            yield from ((answer, True) for answer in cells[1])
            yield from ((answer, False) for answer in cells[2])


@pytest.mark.parametrize(("gold", "answer", "right"), list(kinds_of_math()))
def test_kinds_of_answers_to_math_are_as_written(graders, gold, answer, right):
    marked = rf"\boxed{{{answer}}}"
    assert graders["math500", "default"].reward(example("math500", gold), marked).correct is right


@pytest.mark.parametrize(("answer", "read"), list(readings_of_numbers()))
def test_kinds_of_answers_to_gsm8k_are_as_written(graders, answer, read):
    completion = f"<answer>{answer}</answer>"
    assert graders["gsm8k", "default"].reward(example("gsm8k", "1"), completion).parsed is read


def test_every_task_has_verdicts():
    assert {name for name, *_ in verdicts()} == set(NAMES.values()) == set(tasks.TASKS) - {"jsonl"}
    assert len(list(verdicts())) >= 25
    assert len(list(kinds_of_math())) >= 100
    assert len(list(readings_of_numbers())) >= 30
