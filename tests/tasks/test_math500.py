import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffpo_jax import tasks
from diffpo_jax.config import PromptConfig, TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.d1 import math500 as d1_math500
from diffpo_jax.tasks.math500 import Math500
from diffpo_jax.tasks.task import Example

ROWS = [
    {"problem": "What is $1/2+1/4$?", "answer": r"\frac{3}{4}", "level": 2},
    {"problem": "Factor $x^2-1$.", "solution": r"It is $\boxed{(x-1)(x+1)}$.", "level": "Level 5"},
    {"problem": "Who wins?", "answer": r"\text{Evelyn}"},
    {"problem": "One?", "answer": None, "solution": r"$\boxed 1$ as \boxed{\frac{1}{1}}"},
]


def make(tmp_path, kind="boxed", rows=ROWS, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train_file": str(path), "test_file": str(path), "validation_examples": 0}
    prompt = PromptConfig(answer=kind, template=settings.pop("template", "{question}"))
    settings = files | {"grader_seconds": 30.0, "grader_processes": 1} | settings
    return tasks.make_task(TaskConfig(name="math500", prompt=prompt, **settings), tmp_path)


def problem(gold=r"\frac{3}{4}"):
    return Example("id", "?", gold, {"answer": gold, "level": 3})


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    task = make(tmp_path_factory.mktemp("task"))
    yield task
    task._verifier.close()


@pytest.fixture(scope="module")
def d1_task(task, tmp_path_factory):
    d1_task = make(tmp_path_factory.mktemp("d1"), protocol="d1")
    d1_task._verifier = task._verifier  # one process for both
    return d1_task


@pytest.mark.parametrize(
    ("gold", "completion", "correct", "parsed"),
    [
        (r"\frac{3}{4}", r"so $\boxed{\frac{3}{4}}$", True, True),
        (r"\frac{3}{4}", r"\boxed{0.75}", True, True),
        (r"\frac{3}{4}", r"\boxed{\dfrac34}", True, True),
        (r"\frac{3}{4}", r"\boxed{\frac{4}{3}}", False, True),
        (r"\frac{3}{4}", r"\boxed{\frac{4}{3}} no, \boxed{3/4}", True, True),
        (r"\frac{3}{4}", r"\boxed{3/4} no, \boxed{\frac{4}{3}}", False, True),
        (r"\frac{3}{4}", r"\boxed{\boxed{3/4}}", True, True),
        (r"\frac{3}{4}", r"\boxed{\frac{3}{4}", False, False),
        (r"\frac{3}{4}", "3/4", False, False),
        (r"\frac{3}{4}", r"\boxed{}", False, False),
        (
            r"\frac{3}{4}",
            "<answer>3/4</answer>",
            True,
            True,
        ),  # not as configured
        ("(x-1)(x+1)", r"\boxed{x^2-1}", True, True),  # by algebra
        ("(x-1)(x+1)", r"\boxed{x^2+1}", False, True),
        (r"\frac{3}{4}", r"\boxed{}. So \boxed{3/4}. The answer is \boxed{}.", True, True),
        (r"\frac{3}{4}", r"\boxed\frac34", True, True),
        (r"\frac{3}{4}", r"\boxed{3/4}<|eot_id|><|endoftext|>", True, True),
        (r"\text{Evelyn}", r"\boxed{\textbf{Evelyn}}", True, True),
    ],
)
def test_verdicts_of_the_default_protocol(task, gold, completion, correct, parsed):
    reward = task.reward(problem(gold), completion)
    assert (reward.correct, reward.parsed) == (correct, parsed)
    assert reward.total == reward.parts["correct"] == correct


def test_many_completions_are_graded_like_one(task):
    texts = [r"\boxed{x^2-1}", r"\boxed{1-x^2}", "", r"\boxed{(x+1)(x-1)}", "x"]
    examples = [problem("(x-1)(x+1)")] * len(texts)
    rewards = task.rewards(examples, texts)
    assert rewards == [task.reward(e, t) for e, t in zip(examples, texts)]
    assert [r.correct for r in rewards] == [True, False, False, True, False]
    assert [r.answer for r in rewards] == ["x^2-1", "1-x^2", None, "(x+1)(x-1)", None]


def test_algebra_that_never_ends_is_given_up_and_counts_as_wrong(tmp_path):
    task = make(tmp_path, grader_seconds=2.0)
    # Equal, but only after hundreds of thousands of terms are written out.
    power = "(a+b+c+d)^{99}"
    examples = [problem(f"{power}(a+b+c+d)"), problem("x^2-1")]
    texts = [rf"\boxed{{{power}a+{power}(b+c+d)}}", r"\boxed{(x-1)(x+1)}"]
    rewards = task.rewards(examples, texts)
    assert [r.correct for r in rewards] == [False, True]
    assert rewards[0].parsed
    assert task.scores(examples, texts) == {"d1_accuracy": 0.0, "given_up": 1.0}
    task._verifier.close()


@pytest.mark.parametrize(
    ("gold", "completion", "correct", "answer"),
    [
        (r"\frac{3}{4}", r"\boxed{\frac34}", True, r"\frac34"),
        (r"\frac{3}{4}", r"\boxed{3/4}", True, "3/4"),
        (r"\frac{3}{4}", r"\boxed{0.75}", False, "0.75"),  # strings are compared, not values
        (r"\frac{1}{2}", r"\boxed{0.5}", True, "0.5"),  # the one exception
        ("x^2-1", r"\boxed{(x-1)(x+1)}", False, "(x-1)(x+1)"),
        ("5", r"\boxed{4} and \boxed{5}", True, "5"),
        ("5", "5", True, "5"),  # without a box, the whole text is the answer
        ("5", "<answer>5</answer>", False, "<answer>5</answer>"),  # with its tags
        ("5", r"\boxed{5 <answer>5</answer>", True, "5"),  # a box is not closed
        ("5", r"\boxed{} <answer>5</answer>", True, "5"),  # or empty
        ("5", r"$\boxed 5$ or so", True, "5"),  # with a space: up to a dollar
        ("5", r"\boxed{6", False, None),
        ("5", r"\boxed{x=5}", True, "x=5"),
        ("1,234", r"\boxed{1234}", False, "1234"),
    ],
)
def test_verdicts_of_d1s_evaluation(d1_task, gold, completion, correct, answer):
    reward = d1_task.reward(problem(gold), completion)
    assert (reward.correct, reward.answer) == (correct, answer)


@pytest.mark.parametrize(
    ("gold", "completion", "form", "correctness"),
    [
        ("5", r"<answer>\boxed{5}</answer>", 0.75, 2.0),
        ("5", "<answer>none", 0.75, 0.0),  # a mistake in d1: a box is not needed
        ("5", r"\boxed{5}", 0.25, 2.0),
        ("5", "", 0.25, 0.0),
        ("5", "5", 0.25, 2.0),
        ("5", r"\boxed{5", 0.25, 0.0),
        ("5", r"\boxed{} <answer>5</answer>", 0.75, 0.0),  # unlike in evaluation
    ],
)
def test_d1s_rewards_by_hand(d1_task, gold, completion, form, correctness):
    reward = d1_task.reward(problem(gold), completion)
    assert (reward.parts["format"], reward.parts["correctness"]) == (form, correctness)
    assert reward.total == reward.parts["d1"] == form + correctness


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\n2", "12"),
        (r"\tfrac{1}{2}", r"\frac{1}{2}"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"\frac1{72}", r"\frac{1}{72}"),
        (r"\frac{1}2", r"\frac{1}2"),  # not rewritten
        (r"\frac", r"\frac"),
        ("1/2", r"\frac{1}{2}"),
        ("-1/2", r"\frac{-1}{2}"),
        ("a/b", "a/b"),
        ("01/2", "01/2"),
        ("1/2/3", "1/2/3"),
        ("0.5", r"\frac{1}{2}"),
        (".5", r"\frac{1}{2}"),
        ("0.75", "0.75"),
        (r"x \cdot .5", r"x\cdot0.5"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"\sqrt", None),
        ("k = 5", "5"),
        ("abc=5", "abc=5"),
        ("a=b=5", "a=b=5"),
        (r"5\text{ cm}", "5"),
        (r"5\text{cm}", r"5\text{cm}"),
        (r"5\text{ cm}\text{ }", None),
        (r"50\%", "50"),
        (r"\$5", "5"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"1\\2", r"1\2"),
        ("", ""),
    ],
)
def test_d1s_rewriting_by_hand(text, expected):
    assert d1_math500.rewrite(text) == expected


def test_answers_that_d1_cannot_rewrite_are_compared_unchanged():
    assert d1_math500.is_equivalent(r"\sqrt", r"\sqrt")
    assert not d1_math500.is_equivalent(r"\sqrt", r"\sqrt ")
    assert not d1_math500.is_equivalent(r"\sqrt", r"\frac12")


PIECES = ["\\boxed{", "\\boxed ", "{", "}", "$", "<answer>", "</answer>", "\\frac", "\\sqrt", "1"]


@given(st.text() | st.lists(st.sampled_from([*PIECES, "\\text{ ", "/", "="])).map("".join))
@example("\\boxed{" * 1000)
@example("{" * 4000 + "}" * 4000)
@example("\\frac" * 1500)
@example("\\sqrt1" * 1500)
@example("9" * 8000)
@example("1/" + "9" * 8000)
@example("\\text{ " * 1500)
@example("\ud800")
def test_any_completion_is_graded_by_d1(text):
    assert isinstance(d1_math500.evaluate(problem("5"), text).correct, bool)
    assert set(d1_math500.rewards(problem("5"), text, "tags")) == set(d1_math500.REWARDS)


def test_examples_are_made_of_rows(tmp_path):
    task = make(tmp_path, "tags", template="words")
    test = task.examples("test")
    golds = [r"\frac{3}{4}", "(x-1)(x+1)", r"\text{Evelyn}", r"\frac{1}{1}"]
    assert [e.meta["answer"] for e in test] == golds
    assert [task.difficulty(e) for e in test] == [2.0, 5.0, 0.0, 0.0]
    assert test[2].target == r"<answer>\text{Evelyn}</answer>"
    assert ROWS[0]["problem"] in test[0].prompt
    assert task.overlap() == 4
    assert all(r.correct for r in task.rewards(test, [e.target for e in test]))
    assert not task._verifier._pool._idle  # none of this needed algebra


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"answer": 73}, "73"),
        ({"answer": 0}, "0"),
        ({"answer": -2.50}, "-2.5"),
        ({"answer": " 5 "}, "5"),
        ({"answer": None, "solution": r"so $\boxed 5$."}, "5"),
        ({"solution": r"so $\boxed\frac{1}{2}$."}, r"\frac{1}{2}"),
        ({"solution": r"\boxed{4}, or \boxed{5}"}, "5"),
        ({"answer": "", "solution": r"\fbox{5}"}, "5"),
    ],
)
def test_golds_are_read_from_either_column(tmp_path, row, gold):
    (example,) = make(tmp_path, rows=[{"problem": "?", **row}]).examples("test")
    assert example.meta["answer"] == gold


@pytest.mark.parametrize("value", [True, [5], {"a": 5}])
def test_golds_of_another_type_are_refused(tmp_path, value):
    message = "line 1: column 'answer' must be text or a number"
    with pytest.raises(UserError, match=message):
        make(tmp_path, rows=[{"problem": "?", "answer": value}]).examples("test")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"problem": "1?"}], "line 1 has no column 'answer' and no column 'solution'"),
        ([{"problem": "1?", "answer": " "}], "line 1: column 'answer' is empty"),
        ([*ROWS, {"problem": "1?", "solution": "1"}], "line 5: column 'answer' is empty"),
        ([{"problem": "1?", "solution": 1}], "line 1: column 'answer' is empty"),
        ([{"question": "1?"}], "no column 'problem'"),
    ],
)
def test_faulty_rows_are_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        make(tmp_path, rows=rows).examples("train")


def test_the_largest_reward_is_that_of_the_configured_one(tmp_path):
    assert make(tmp_path).reward_max == 1.0
    assert make(tmp_path, protocol="d1").reward_max == 2.75
    with pytest.raises(UserError, match="use one of: correct, formatted, d1, format, correctness"):
        make(tmp_path, reward="best")
    assert set(make(tmp_path).reward(problem(), "").parts) == set(Math500.REWARDS)
