"""Rewards and metrics of the user's, for every task."""

import dataclasses
import os
import pathlib
import sys
import textwrap

import pytest

from diffpo_jax import tasks
from diffpo_jax.config import CountdownConfig, PromptConfig, TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import functions
from diffpo_jax.tasks.own_reward import unwrap
from diffpo_jax.tasks.task import GIVEN_UP, Example, OneByOne, Reward, Task


class Echo(OneByOne):
    """A task that accepts only the target."""

    name, reward_max, difficulty_unit = "echo", 1.0, "letters"

    def __init__(self, config, data_dir):
        assert config.reward is None  # a function is not a name of the task's

    def examples(self, split):
        return [Example(f"echo/{x}", x, x * 2) for x in ("a", "bc", "def")]

    def reward(self, example, completion):
        right = completion == example.target
        return Reward(float(right), {"right": float(right)}, right, True, completion)

    def scores(self, examples, completions):
        return {}

    def overlap(self):
        return 3

    def difficulty(self, example):
        return float(len(example.prompt))


@pytest.fixture
def define(tmp_path, monkeypatch):
    """Defines a module of functions in the current directory, which is not on sys.path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [x for x in sys.path if x])
    monkeypatch.setitem(tasks.TASKS, "echo", Echo)
    made = []

    def write(code, name="own_functions"):
        sys.modules.pop(name, None)
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        made.append(name)

    yield write
    for name in made:
        sys.modules.pop(name, None)


def make(tmp_path, reward=None, metrics=(), **fields):
    config = TaskConfig(name="echo", reward=reward, grader_processes=1, **fields)
    return tasks.make_task(config, tmp_path, metrics)


LENGTH = """
    def length(example, completion):
        return len(completion) / 4

    length.reward_max = 2
"""


def test_a_function_is_the_reward_and_the_verdict_stays_the_tasks(tmp_path, define):
    define(LENGTH)
    task = make(tmp_path, "own_functions:length")
    assert isinstance(task, Task) and isinstance(unwrap(task), Echo)
    assert (task.name, task.difficulty_unit, task.reward_max) == ("echo", "letters", 2)
    first, second = task.examples("train")[:2]
    right, wrong = task.rewards([first, second], ["aa", "xyz<|end|>more"])
    assert right == Reward(0.5, {"right": 1.0, "length": 0.5}, True, True, "aa", {"length": 0.5})
    assert (wrong.total, wrong.correct) == (0.75, False)  # up to the end of the text
    assert task.difficulty(second) == 2.0 and task.overlap() == 3
    task.try_out()


def test_parts_are_added_up_and_reported_by_name(tmp_path, define):
    define(
        """
        def both(example, completion):
            return {"brief": -0.25 * len(completion), "target": completion == example.target}
        """
    )
    reward = make(tmp_path, "own_functions:both").reward(Example("x", "a", "aa"), "aa")
    assert reward.total == 0.5
    assert reward.parts == {"right": 1.0, "both": 0.5, "brief": -0.5, "target": 1.0}
    assert reward.metrics == {"both": 0.5}


def test_metrics_change_neither_reward_nor_verdict(tmp_path, define):
    define(LENGTH + "\n    def vowels(e, c): return {'a': c.count('a'), 'e': c.count('e')}\n")
    names = ("own_functions:length", "own_functions:vowels")
    task = make(tmp_path, metrics=names)
    reward = task.reward(Example("x", "a", "aa"), "aa")
    assert (reward.total, reward.parts, task.reward_max) == (1.0, {"right": 1.0}, 1.0)
    assert reward.metrics == {"length": 0.5, "vowels": 2.0, "a": 2.0, "e": 0.0}


def test_tasks_of_the_package_take_a_function(tmp_path, define):
    define("def brief(example, completion): return 1 / (1 + len(completion))")
    settings = CountdownConfig(train_examples=8, validation_examples=2, test_examples=2)
    prompt = PromptConfig(answer="tags")
    config = TaskConfig(
        name="countdown", protocol="d1", countdown=settings, prompt=prompt,
        reward="own_functions:brief",
    )  # fmt: skip
    task = tasks.make_task(config, tmp_path)
    example = Example("x", "", "", {"numbers": [3, 5, 2], "target": 9})
    reward = task.reward(example, r"\boxed{3*(5-2)}<|eot_id|> and more")
    assert reward.correct and reward.total == 1 / 16
    assert set(reward.parts) == {"exact", "graded", "d1", "brief"}


def test_functions_run_in_worker_processes(tmp_path, define):
    define(
        """
        import os, time

        def process(example, completion):
            if completion == "long":
                time.sleep(60)
            if completion == "die":
                os._exit(1)
            if completion == "raise":
                raise ValueError("no such word")
            return {"other": os.getpid() != int(example.prompt), "one": 1.0}

        process.parallel = True
        process.reward_max = 2.0
        """
    )
    example = Example("x", str(os.getpid()), "")
    task = make(tmp_path, "own_functions:process", grader_seconds=1.0)
    rewards = task.rewards([example] * 4, ["a", "long", "die", "b"])
    assert [reward.total for reward in rewards] == [2.0, 0.0, 0.0, 2.0]
    assert rewards[1].parts == {"right": 0.0, "process": 0.0, "other": 0.0, "one": 0.0}
    assert task.scores([], []) == {GIVEN_UP: 2.0}
    with pytest.raises(UserError, match=r"process raised ValueError\('no such word'\), for x and"):
        task.reward(example, "raise")


MISTAKES = [
    ("def f(e, c): return 'good'", "own_functions:f returned 'good' and not a number, or names"),
    ("def f(e, c): pass", "returned None and not a number"),
    ("def f(e, c): return float('nan')", "returned nan, which is not finite"),
    ("def f(e, c): return {'a': 'x'}", r"returned \{'a': 'x'\} and not a number"),
    ("def f(e, c): return {1: 1}", r"returned \{1: 1\} and not a number"),
    ("def f(e, c): return {'f': 1}", "no part may have the function's own name, 'f'"),
    ("def f(e, c): return {'a': 1} if c else {}", "and a before: names must not change"),
    ("def f(e, c): return {'right': 1}", "there is a reward or metric 'right' already"),
    ("def f(e, c): return 1.5", r"returned 1.5, above .* 1; say below the function: f.reward_max"),
    ("def f(e, c): return c[99]", r"raised IndexError: string index .* \(own_functions.py, line 1"),
    ("def f(c): return 1", "raised TypeError: f.. takes 1 positional argument but 2 were given"),
    ("def f(e, c): return 1\nf.reward_max = 0", "reward_max=0 must be a number above 0"),
    ("def f(e, c): return 1\nf.reward_max = 'x'", "reward_max='x' must be a number above 0"),
    ("def g(e, c): return 1", r"own_functions.py has no 'f'. Its functions and classes: g\."),
    ("f = 3", r"has no 'f'. Its functions and classes: none\."),
    ("import nothing_like_it", "cannot be imported: ModuleNotFoundError: No module named 'nothing"),
    ("def f(:", "cannot be imported: SyntaxError: "),
]


@pytest.mark.parametrize(("code", "message"), MISTAKES)
def test_a_mistake_is_one_line(tmp_path, define, code, message):
    define(code)
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path, "own_functions:f").try_out()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("config.task.reward")


@pytest.mark.parametrize("spec", ["own_functions:", ":f", "own functions:f", "a.b:c:d", "../a:f"])
def test_a_name_has_a_module_and_a_function(tmp_path, define, spec):
    with pytest.raises(UserError, match=r"must have the form package.module:function"):
        make(tmp_path, spec)


def test_a_task_may_be_a_class_of_ones_own(tmp_path, define):
    path = str(pathlib.Path(__file__).parent)
    define(f"import sys; sys.path.append({path!r}); from test_own_reward import Echo")
    task = tasks.make_task(TaskConfig(name="own_functions:Echo"), tmp_path)
    assert task.reward(Example("x", "a", "aa"), "aa").correct
    define("class Half:\n    def __init__(self, config, data_dir): self.name = 'half'")
    with pytest.raises(UserError, match="the task has no reward_max, difficulty_unit, reads_spec"):
        tasks.make_task(TaskConfig(name="own_functions:Half"), tmp_path)


def test_two_metrics_need_two_names(tmp_path, define):
    define(LENGTH)
    define(LENGTH, name="other_functions")
    task = make(tmp_path, metrics=("own_functions:length", "other_functions:length"))
    with pytest.raises(UserError, match=r"config.evaluation.metrics: there is .* 'length' already"):
        task.try_out()


def test_the_source_of_a_function_is_that_of_its_file(tmp_path, define):
    define(LENGTH)
    name, before = functions.source("own_functions:length", "field")
    assert name == "own_functions.py"
    (tmp_path / "own_functions.py").touch()
    assert functions.source("own_functions:length", "field")[1] == before
    define(LENGTH.replace("4", "8"))
    assert functions.source("own_functions:length", "field")[1] != before


def test_an_unknown_name_says_that_functions_are_taken(tmp_path):
    config = dataclasses.replace(TaskConfig(), reward="best")
    with pytest.raises(UserError, match=r"or a function of your own, package.module:function"):
        tasks.make_task(config, tmp_path)
