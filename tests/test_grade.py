"""The command `grade`, and the files that it reads."""

import json
import math
import os
import re
import subprocess
import sys
import types

import pytest
from absl import flags
from absl.testing import flagsaver
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax import grade, tasks
from diffpo_jax.evaluation import grading
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import generations
from diffpo_jax.tasks.task import Example, Reward

GRID, CLUES = "1234341221434321", "0034341200434321"


COMMAND = """
from diffpo_jax import grade
from diffpo_jax.config import command
command.run(grade.main)
"""


def run(*words, python=COMMAND):
    """Runs the command in another process."""
    return subprocess.run(
        [sys.executable, "-c", python, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.curdir for p in sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sample(completion, answer="18", id="a"):
    return {"id": id, "prompt": "?", "completion": completion, "meta": {"answer": answer}}


def write_d1(path, *rows):
    rows = [
        {"prompt_input": f"<user>{q}", "question": q, "generations": g, "ground_truth": t}
        for q, g, t in rows
    ]
    path.write_text(json.dumps({"generations": rows, "metrics": {"wall_time": 1.0}}))
    return str(path)


def test_the_command_needs_no_jax(tmp_path):
    path = write(tmp_path / "a.jsonl", sample("<answer>18</answer>"), sample("<answer>7</answer>"))
    program = (
        "import sys; from diffpo_jax import grade; from diffpo_jax.config import command\n"
        "try: command.run(grade.main)\n"
        "finally:\n"
        "  print(sorted({m.split('.')[0] for m in sys.modules} & {'jax', 'jaxlib', 'flax'}))\n"
    )
    result = run(f"--file={path}", "--task=gsm8k", python=program)
    assert result.returncode == 0, result.stderr
    *table, modules = result.stdout.splitlines()
    assert modules == "[]"
    values = {line[:22].strip(): line[22:].strip() for line in table}
    assert values["completions"] == "2 of 1 problems"
    assert values["accuracy"] == "0.5000  (1 of 2)"
    assert (values["pass@1"], values["pass@2"]) == ("0.5000", "1.0000")
    assert values["reward d1"] == "1.5000"
    assert values["verdicts"] == str(tmp_path / "a.verdicts.jsonl")
    first, second = map(json.loads, (tmp_path / "a.verdicts.jsonl").read_text().splitlines())
    assert first["correct"] and not second["correct"]
    assert second == {
        "id": "a",
        "place": f"{path}: line 2",
        "correct": False,
        "parsed": True,
        "answer": "7",
        "reward": 0.0,
        "parts": {"correct": 0.0, "formatted": 1.0, "d1": 0.5, "xmlcount": 0.0}
        | {"soft_format": 0.0, "strict_format": 0.0, "int": 0.5, "correctness": 0.0},
    }


def test_a_wrong_way_of_marking_is_suspected_if_no_answer_is_found(tmp_path):
    path = write(tmp_path / "a.jsonl", sample("18"), sample("17"))
    result = run(f"--file={path}", "--task=gsm8k")
    assert result.returncode == 0
    assert result.stderr == (
        "warning: no answer was found in any of 2 completions; --answer says how they are marked, "
        "now tags: try text, boxed.\n"
    )
    assert run(f"--file={path}", "--task=gsm8k", "--answer=text").stderr == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--file=a"], "--task is missing. Example: python -m diffpo_jax.grade --file="),
        (["--file=a", "--task=chess"], "config.task.name='chess' is unknown; use one of: sudoku, "),
        (["--file=/nowhere/a", "--task=gsm8k"], "--file=/nowhere/a cannot be read"),
    ],
)
def test_errors_are_one_line(words, message):
    result = run(*words)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "values", "message"),
    [
        ([], {"file": []}, "--file is missing"),
        (["a"], {"file": ["a"]}, "unexpected argument 'a'"),
        ([], {"file": ["a"], "out": "./a"}, "--out=./a would overwrite a file of completions"),
        ([], {"file": ["FILE"], "out": "/proc/nowhere/a"}, "--out=/proc/nowhere/a cannot be wri"),
    ],
)
def test_faulty_flags_are_refused(tmp_path, words, values, message):
    path = write(tmp_path / "a.jsonl", sample("18"))
    values["file"] = [path if name == "FILE" else name for name in values["file"]]
    flags.FLAGS.mark_as_parsed()
    with (
        flagsaver.flagsaver(**{"task": "gsm8k"} | values),
        pytest.raises(UserError, match=re.escape(message)),
    ):
        grade.main(["grade", *words])


@pytest.fixture
def graded(tmp_path, capsys):
    """Runs the command in this process and returns (verdicts, its output)."""

    def run(*paths, task, protocol="default", answer="tags"):
        flags.FLAGS.mark_as_parsed()
        out = tmp_path / "out.jsonl"
        values = {"file": list(paths), "task": task, "protocol": protocol, "answer": answer}
        with flagsaver.flagsaver(out=str(out), **values):
            grade.main(["grade"])
        return [json.loads(line) for line in out.read_text().splitlines()], capsys.readouterr().out

    return run


def test_the_protocol_decides_the_verdicts(tmp_path, graded):
    path = write(tmp_path / "a.jsonl", sample(r"\boxed{1,234}", "1,234"), sample("18"))
    ours, _ = graded(path, task="gsm8k")
    theirs, printed = graded(path, task="gsm8k", protocol="d1")
    as_text, _ = graded(path, task="gsm8k", answer="text")
    assert [v["correct"] for v in ours] == [True, False]
    assert [v["correct"] for v in theirs] == [False, False]
    assert [v["correct"] for v in as_text] == [True, True]
    assert theirs[0]["reward"] == theirs[0]["parts"]["d1"]
    assert "no answer read         1" in printed


@pytest.mark.parametrize(
    ("task", "question", "truth", "right", "wrong"),
    [
        ("gsm8k", "2 times 9?", 18.0, r"\boxed{18}", r"\boxed{17}"),
        ("gsm8k", "1 over 8?", 0.125, r"\boxed{0.125}", r"\boxed{1}"),
        ("gsm8k", "A lot?", 109_200_000.0, r"\boxed{109200000}", r"\boxed{1}"),
        ("math500", "2/4?", r"\frac{1}{2}", r"\boxed{\frac12}", r"\boxed{\frac21}"),
        (
            "sudoku",
            f"Solve this: {CLUES}\n",
            GRID,
            f"<answer>{GRID}</answer>",
            "<answer>1</answer>",
        ),
        ("countdown", "Numbers", [[1, 2, 3], 6], r"\boxed{1+2+3}", r"\boxed{1+2-3}"),
    ],
)
@pytest.mark.parametrize("protocol", ["default", "d1"])
def test_files_of_d1_are_graded(tmp_path, graded, task, protocol, question, truth, right, wrong):
    if task not in tasks.TASKS:
        pytest.skip(f"there is no task {task}")
    one = write_d1(tmp_path / "0.json", (question, f"<reasoning>...</reasoning>{right}", truth))
    two = write_d1(tmp_path / "1.json", (question, wrong, truth), (question + "?", wrong, truth))
    verdicts, printed = graded(one, two, task=task, protocol=protocol)
    assert [v["correct"] for v in verdicts] == [True, False, False]
    assert verdicts[0]["id"] == verdicts[1]["id"] != verdicts[2]["id"]
    assert verdicts[2]["place"] == f"{two}: generation 2"
    assert "completions            3 of 2 problems" in printed


def test_samples_of_own_rows_are_graded_by_a_grader(tmp_path, graded):
    path = write(tmp_path / "a.jsonl", sample("18.0"), sample("B", "b"))
    for grader, right in (("exact", 0), ("number", 1), ("choice", 1)):
        with flagsaver.flagsaver(grader=grader):
            verdicts, _ = graded(path, task="jsonl", answer="text")
        assert sum(v["correct"] for v in verdicts) == right
    whole = write_d1(tmp_path / "0.json", ("?", "18", 18))
    with pytest.raises(UserError, match="d1's form, which does not exist for task 'jsonl'"):
        graded(whole, task="jsonl")


def test_samples_of_sudoku_are_graded(tmp_path, graded):
    meta = {"clues": CLUES, "solution": GRID}
    rows = [{"id": "a", "completion": text, "meta": meta} for text in (GRID, CLUES)]
    verdicts, printed = graded(write(tmp_path / "a.jsonl", *rows), task="sudoku", answer="text")
    assert [v["correct"] for v in verdicts] == [True, False]
    assert "cell_accuracy          0.5000" in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no completion"),
        ("\n\n", "has no completion"),
        ('{"id": "a"', "line 1 is not JSON"),
        ("[1]", "line 1 must be an object"),
        (json.dumps(sample("x")) + "\n{", "line 2 is not JSON"),
        (
            '{"id": "a", "completion": "x"}',
            "has no field 'meta'. Its fields: id, completion",
        ),
        ('{"id": "a", "completion": 1, "meta": {}}', "field 'completion' must be text; it is 1"),
        ('{"id": "a", "completion": "x", "meta": {}}', "line 1: 'meta' has no field 'answer'"),
        ('{"generations": 3}', "'generations' must be a list of objects"),
        ('{"generations": []}', "'generations' must be a list of objects"),
        ('{"generations": [{"question": "a"}]}', "generation 1 has no field 'generations'"),
    ],
)
def test_faulty_files_are_refused(tmp_path, text, message):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        generations.read(str(path), "gsm8k")
    assert str(caught.value).startswith(f"--file={path}")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("task", "question", "truth"),
    [
        ("sudoku", "no clues", GRID),
        ("sudoku", CLUES, GRID[:-1]),
        ("sudoku", CLUES, 18.0),
        ("countdown", "?", 6),
        ("countdown", "?", [["a"], 6]),
        ("math500", "?", 6),
        *(("countdown", "?", [[1, 2], x]) for x in (math.inf, math.nan)),
        *(("countdown", "?", [[1, x], 3]) for x in (math.inf, math.nan)),
        *(("gsm8k", "?", x) for x in (math.inf, -math.inf, math.nan, None, [1], True)),
        ("sudoku", CLUES, math.nan),
    ],
)
def test_ground_truths_of_another_task_are_refused(tmp_path, task, question, truth):
    path = write_d1(tmp_path / "a.json", (question, "x", truth))
    with pytest.raises(UserError, match=f"generation 1: .* does not belong to task '{task}'"):
        generations.read(path, task)


@pytest.mark.parametrize("numbers", [["a", 2], [[1], 2], [None], [math.nan], [1.5, 2]])
def test_numbers_of_another_kind_are_refused(tmp_path, numbers):
    row = sample("x") | {"meta": {"numbers": numbers, "target": 3}}
    with pytest.raises(UserError, match="line 1: 'meta': field 'numbers' must be a list of whole"):
        generations.read(write(tmp_path / "a.jsonl", row), "countdown")


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_any_completion_is_read_back(tmp_path_factory, text):
    path = write(tmp_path_factory.getbasetemp() / "any.jsonl", sample(text), sample("\ud800"))
    assert [g.completion for g in generations.read(path, "gsm8k")] == [text, "?"]


def test_the_samples_of_a_run_can_be_graded_again(tmp_path):
    tokens = {"commit_call": [[1, 2]], "logprob": [[0.0, -1.0]], "entropy": [[0.0, 0.5]]}
    rollout = types.SimpleNamespace(nfe=[3], gamma=[0.1], forced=[False], **tokens)
    reward = Reward(1.0, {"correct": 1.0}, True, True)
    graded = grading.Graded(rollout, [Example("a", "?", "18", {"answer": "18"})], ["18"], [reward])
    path = write(tmp_path / "a.jsonl", *grading.sample_rows(graded, None, 9))
    (found,) = generations.read(path, "gsm8k")
    assert found.example == Example("a", "?", "", {"answer": "18"})
    assert found.completion == "18"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"--file=.*it is no regular file"):
        generations.read(str(tmp_path / "a.jsonl"), "gsm8k")
