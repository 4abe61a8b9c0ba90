"""The task jsonl: columns, graders, splits, and mistakes that are one line."""

import json
import textwrap

import pytest

from diffpo_jax import tasks
from diffpo_jax.config import JsonlConfig, PromptConfig, TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import Task

INF = float("inf")
NAN = {"question": "nan", "answer": float("nan")}
NONE = {"question": "none", "answer": None}
SUMS = [{"question": f"{i}+{i}", "answer": 2 * i, "level": i % 3} for i in range(40)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make(tmp_path, rows=SUMS, test=None, prompt=None, metrics=(), **fields):
    """A task of these rows; fields are those of `config.task.jsonl` and of `config.task`."""
    own = {name: fields.pop(name) for name in JsonlConfig.__dataclass_fields__ if name in fields}
    files = {"train_file": write(tmp_path / "train.jsonl", rows)}
    if test:
        files["test_file"] = write(tmp_path / "test.jsonl", test)
    config = TaskConfig(
        name="jsonl",
        prompt=prompt or PromptConfig(),
        jsonl=JsonlConfig(**own),
        **files,
        **{"grader_processes": 1} | fields,
    )
    return tasks.make_task(config, tmp_path, metrics)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of functions in the current directory, which is not on sys.path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [x for x in __import__("sys").path if x])

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))

    yield write


def questions(task, split):
    return {example.meta["row"]["question"] for example in task.examples(split)}


# --- rows


def test_rows_become_examples_with_their_columns(tmp_path):
    task = make(tmp_path)
    assert isinstance(task, Task)
    example = next(e for s in ("train", "validation", "test") for e in task.examples(s)
                   if e.prompt == "7+7")  # fmt: skip
    assert example.target == "14"
    assert example.meta == {"answer": "14", "row": {"question": "7+7", "answer": 14, "level": 1}}
    assert example.id.startswith("jsonl/train/7-")


def test_templates_name_columns_and_the_prompt_is_worded(tmp_path):
    rows = [{"a": i, "to": [i, "x"], "n": i / 4} for i in range(8)]
    prompt = PromptConfig(template="Q: {question} {format}", answer="boxed", chat=True)
    task = make(tmp_path, rows, prompt=prompt, question="{a} of {to[1]}", answer="n")
    example = next(e for e in task.examples("train"))
    number = example.meta["row"]["a"]
    assert example.prompt.startswith(f"Q: {number} of x Think it through")
    assert example.target == rf"\boxed{{{number / 4:g}}}" and example.chat
    assert task.reward(example, f"It is {example.target}.").correct
    assert not task.reward(example, f"{number / 4:g}").parsed


def test_difficulty_and_id_are_columns(tmp_path):
    task = make(tmp_path, difficulty="level", id="question")
    assert task.difficulty_unit == "level"
    found = {e.id: task.difficulty(e) for e in task.examples("train")}
    assert all(found[f"jsonl/train/{i}+{i}"] == i % 3 for i in range(40)
               if f"jsonl/train/{i}+{i}" in found)  # fmt: skip
    plain = make(tmp_path)
    assert {plain.difficulty(e) for e in plain.examples("train")} == {0.0}


def test_other_files_than_json_lines_are_read(tmp_path):
    (tmp_path / "rows.csv").write_text(
        "question,answer\n" + "".join(f"{i},{i}\n" for i in range(9))
    )
    config = TaskConfig(name="jsonl", train_file=str(tmp_path / "rows.csv"))
    assert len(tasks.make_task(config, tmp_path).examples("train")) == 7


# --- splits


def test_questions_are_held_out_together_however_often_they_occur(tmp_path):
    rows = [*SUMS, *SUMS[::-1], *SUMS[:5]]
    task = make(tmp_path, rows)
    parts = [questions(task, split) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert len(set.union(*parts)) == 40
    assert sum(len(task.examples(s)) for s in ("train", "validation", "test")) == len(rows)
    assert task.overlap() == 0
    assert parts == [questions(make(tmp_path), s) for s in ("train", "validation", "test")]


def test_with_a_test_file_only_validation_is_held_out(tmp_path):
    test = [{"question": "1+1", "answer": "2"}, {"question": "new", "answer": "x"}]
    task = make(tmp_path, test=test, held_out=0.25)
    assert [len(questions(task, s)) for s in ("train", "validation", "test")] == [30, 10, 2]
    assert task.overlap() == 1


def test_the_order_of_reading_does_not_matter(tmp_path):
    one, other = make(tmp_path), make(tmp_path)
    first = [e.id for e in one.examples("test")]
    assert len(other.examples("train")) == 32
    assert [e.id for e in other.examples("test")] == first


# --- graders

VERDICTS = [
    # grader, gold, answer, right (None: cannot be read)
    ("exact", "Paris", " Paris\n", True),
    ("exact", "Paris", "paris", False),
    ("exact", "Paris", "", None),
    ("number", "1080", "1,080", True),
    ("number", 0.5, "1/2", True),
    ("number", "18", "about 17", False),
    ("number", "18", "many", None),
    ("math", r"\frac{1}{2}", "0.5", True),
    ("math", "(x-1)(x+1)", "x^2-1", True),
    ("math", "2", "3", False),
    ("choice", "B", "(b)", True),
    ("choice", "(B) Rome", "B: Rome", True),
    ("choice", "B", "The answer is B.", True),
    ("choice", "B", "C) B", False),
    ("choice", "A", "A cat", None),
    ("choice", "A", "F", None),
    ("choice", "A", "AB", None),
]


@pytest.mark.parametrize(("grader", "gold", "answer", "right"), VERDICTS)
def test_graders_by_name(tmp_path, grader, gold, answer, right):
    rows = [{"question": f"{i}", "answer": gold} for i in range(5)]
    task = make(tmp_path, rows, grader=grader)
    reward = task.reward(task.examples("train")[0], answer)
    assert (reward.parsed, reward.correct) == (right is not None, bool(right))
    assert reward.total == reward.parts["correct"] == float(bool(right))
    assert reward.parts["formatted"] == float(right is not None)


def test_a_pattern_reads_the_gold_answer_too(tmp_path):
    rows = [{"question": f"{i}", "answer": f"So it is.\n#### {i}"} for i in range(5)]
    task = make(tmp_path, rows, grader="regex", regex=r"#### (\d+)")
    example = task.examples("train")[0]
    gold = example.prompt
    assert task.reward(example, f"#### 99, no, #### {gold} it is").correct
    assert not task.reward(example, f"#### {gold}, no, #### 99").correct
    assert not task.reward(example, gold).parsed


def test_a_function_grades_the_answer_without_its_tags(tmp_path, module):
    module(
        "grade_parity",
        """
        def parity(example, answer):
            return int(answer) % 2 == int(example.meta["answer"]) % 2 if answer.isdigit() else 0.5
        """,
    )
    prompt = PromptConfig(answer="tags")
    task = make(tmp_path, prompt=prompt, grader="grade_parity:parity")
    example = task.examples("train")[0]
    assert task.reward(example, "<answer>4</answer>").correct
    assert not task.reward(example, "<answer>5</answer>").correct
    half = task.reward(example, "<answer>x</answer>")
    assert (half.total, half.correct, half.parsed) == (0.5, False, True)
    assert not task.reward(example, "4").parsed


def test_rewards_are_chosen_by_name(tmp_path):
    task = make(tmp_path, reward="formatted", prompt=PromptConfig(answer="tags"))
    example = task.examples("train")[0]
    assert task.reward(example, "<answer>no</answer>").total == 1.0
    assert task.reward(example, example.meta["answer"]).total == 0.0


def test_answers_that_take_too_long_are_counted(tmp_path, module):
    module(
        "grade_slowly",
        """
        import time

        def slow(example, answer):
            time.sleep(60 * (answer == "long"))
            return True

        slow.parallel = True
        """,
    )
    task = make(tmp_path, grader="grade_slowly:slow", grader_seconds=0.5)
    example = task.examples("train")[0]
    assert task.scores([], []) == {"given_up": 0.0}
    assert make(tmp_path).scores([], []) == {}
    rewards = task.rewards([example] * 2, ["long", "short"])
    assert [reward.correct for reward in rewards] == [False, True]
    assert task.scores([], []) == {"given_up": 1.0}


def test_an_empty_cell_beside_question_and_answer_can_be_written_to_samples(tmp_path):
    rows = [row | {"weight": float("nan"), "more": [INF, 1.5]} for row in SUMS]
    example = make(tmp_path, rows).examples("train")[0]
    assert example.meta["row"]["weight"] is None and example.meta["row"]["more"] == [None, 1.5]
    json.dumps(dict(example.meta), allow_nan=False)


# --- mistakes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": "prompt"}, r"train.jsonl: line 1 has no column 'prompt'. Its columns: quest"),
        ({"answer": "{solution}"}, "has no column 'solution'. Its columns: question, answer"),
        ({"question": "{}"}, r"config.task.jsonl.question: \{\} is not a field"),
        ({"question": "{question"}, "config.task.jsonl.question: .*literal brace twice"),
        ({"rows": [*SUMS, NONE]}, "'answer' must be text or a number; it is None"),
        ({"rows": [*SUMS, NAN]}, "line 41: 'answer' must be a finite number; it is nan"),
        ({"rows": [*SUMS, NAN | {"answer": -INF}]}, "'answer' must be a finite number; it is -inf"),
        ({"rows": [{"question": " ", "answer": "a"}]}, "line 1: config.task.jsonl.question gives"),
        ({"rows": []}, "has no row"),
        ({"rows": SUMS[:2]}, "has 2 different questions: with 1 held out for validation and test"),
        ({"id": "level"}, r"line 4: column 'level' must name each row, but has '0' in .*line 1"),
        ({"difficulty": "question"}, r"column 'question' must be a number; it is '\d+\+"),
        ({"grader": "numbers"}, "grader='numbers' is unknown; use one of: exact, number, choice"),
        ({"grader": "regex"}, "config.task.jsonl.regex is missing"),
        ({"grader": "regex", "regex": "(a"}, r"regex='\(a' is no pattern: missing \)"),
        ({"grader": "regex", "regex": "a"}, r"regex='a' has no group"),
        ({"grader": "regex", "regex": "(x)"}, r"the grader 'regex' cannot read the answer '\d+'"),
        ({"grader": "choice"}, r"line \d+: the grader 'choice' cannot read the answer '\d+'"),
        ({"grader": "nowhere_at_all:f"}, "grader=nowhere_at_all:f cannot be imported: Module"),
        ({"protocol": "d1"}, "protocol='d1' is unknown for the task jsonl; use one of: default"),
        ({"reward": "best"}, "reward='best' is unknown; use one of: correct, formatted; or a func"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, fields, message):
    with pytest.raises(UserError, match=message) as caught:
        task = make(tmp_path, **fields)
        for split in ("train", "validation", "test"):
            task.examples(split)
    assert "\n" not in str(caught.value)


def test_a_file_is_needed(tmp_path):
    with pytest.raises(UserError, match=r"config.task.train_file is missing"):
        tasks.make_task(TaskConfig(name="jsonl"), tmp_path).examples("test")


def test_an_answer_that_the_function_refuses_is_named(tmp_path, module):
    module("grade_never", "def never(example, answer): return answer != '14'")
    task = make(tmp_path, grader="grade_never:never")
    message = "line 8: the grader 'grade_never:never' finds the answer '14' wrong, though it is the"
    with pytest.raises(UserError, match=message):
        for split in ("train", "validation", "test"):
            task.examples(split)
    module("grade_beyond", "def beyond(example, answer): return 2")
    with pytest.raises(UserError, match="returned 2; a grader returns True or False, or a share"):
        make(tmp_path, grader="grade_beyond:beyond").examples("train")
