"""From token ids to texts and rewards."""

import types

import numpy as np
import pytest

from diffpo_jax.config import TokenizerConfig
from diffpo_jax.data import tokenizers
from diffpo_jax.evaluation import evaluator, grading
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import Example, OneByOne, Reward


class Hard:
    """A task that gave up on two answers."""

    def scores(self, examples, completions):
        return {"d1_accuracy": 0.5, "given_up": 2.0}


class Echo(OneByOne):
    """A task that accepts only the target."""

    name = "echo"

    def reward(self, example, completion):
        right = completion == example.target
        return Reward(float(right), {"right": float(right)}, right, True)


def test_a_prefill_is_graded_with_the_completion():
    tokenizer = tokenizers.make_tokenizer(TokenizerConfig())
    examples = [Example("a", "0", "123", prefill="1"), Example("b", "0", "23")]
    rows = np.array([[5, 6, 2, 7]] * 2)  # 2 3 end 4
    graded = grading.grade(types.SimpleNamespace(tokens=rows), examples, Echo(), tokenizer)
    assert graded.texts == ["123", "23"]
    assert graded.correct.tolist() == [True, True]


def test_a_task_that_reads_special_tokens_gets_the_whole_text():
    tokenizer = tokenizers.make_tokenizer(TokenizerConfig())
    examples = [Example("a", "0", "2<|mask|>3"), Example("b", "0", "23")]
    tokens = types.SimpleNamespace(tokens=np.array([[5, 1, 6, 2, 7], [5, 6, 2, 2, 2]]))
    graded = grading.grade(tokens, examples, Echo(), tokenizer)
    assert graded.texts == ["2<|mask|>3", "23"]
    task = Echo()
    task.reads_special_tokens = True
    graded = grading.grade(tokens, examples, task, tokenizer)
    assert graded.texts == ["2<|mask|>3<|end|>4", "23<|end|><|end|><|end|>"]


def test_only_given_up_answers_are_summed_over_hosts(monkeypatch):
    graded = grading.Graded(None, [], [], [])
    assert grading.scores(graded, Hard()) == {"d1_accuracy": 0.5, "given_up": 2.0}
    monkeypatch.setattr(grading.hosts, "gather", lambda mine: [mine, 5.0])
    assert grading.scores(graded, Hard()) == {"d1_accuracy": 0.5, "given_up": 7.0}


def graded_with(*rewards):
    """Graded rollouts of four tokens each, in two calls."""
    rows = len(rewards)
    rollout = types.SimpleNamespace(
        gamma=np.full(rows, 0.5),
        nfe=np.full(rows, 2),
        sampled=np.ones((rows, 4), bool),
        entropy=np.zeros((rows, 4)),
        forced=np.zeros(rows, bool),
    )
    examples = [Example(str(i), str(i), "") for i in range(rows)]
    return grading.Graded(rollout, examples, [""] * rows, list(rewards))


def test_metrics_of_the_users_are_averaged():
    """A reward that is a function counts once among a step's metrics, as a part of the reward."""
    first = Reward(0.5, {"right": 1.0, "own": 0.5}, True, True, None, {"own": 0.5, "size": 3.0})
    other = Reward(0.0, {"right": 0.0, "own": 0.0}, False, True, None, {"own": 0.0, "size": 6.0})
    graded = graded_with(first, other, other)
    point = evaluator.point(graded, "entropy_bounded", 0.5)
    assert point["metric/size"] == 5.0 and point["metric/own"] == 0.5 / 3
    step = grading.metrics_of(graded)
    assert step["metric/size"] == (15.0, 3) and step["reward/own"] == (0.5, 3)
    assert "metric/own" not in step


def test_without_metrics_a_point_has_none():
    plain = Reward(1.0, {"right": 1.0}, True, True)
    assert not [x for x in evaluator.point(graded_with(plain), "entropy_bounded", 0.5) if "/" in x]


NAN, RIGHT = float("nan"), Reward(1.0, {"right": 1.0}, True, True, None, {"size": 3})


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (RIGHT._replace(total=NAN), "a reward of nan"),
        (RIGHT._replace(total=None), "a reward of None"),
        (RIGHT._replace(parts={"right": 1.0, "short": NAN}), "part 'short' of its reward of nan"),
        (RIGHT._replace(metrics={"size": float("-inf")}), "metric 'size' of -inf"),
        (RIGHT._replace(total=np.float32("inf")), "a reward of "),
    ],
)
def test_a_reward_that_is_no_number_names_the_row_and_the_part(broken, named):
    class Broken(Echo):
        def rewards(self, examples, completions):
            return [RIGHT, broken]

    tokenizer = tokenizers.make_tokenizer(TokenizerConfig())
    examples = [Example("echo/0", "0", "23"), Example("echo/1", "0", "23")]
    rows = types.SimpleNamespace(tokens=np.array([[5, 6]] * 2))
    with pytest.raises(UserError) as error:
        grading.grade(rows, examples, Broken(), tokenizer)
    for words in ("'echo'", "example echo/1 ", named, "finite"):
        assert words in str(error.value)


def test_a_model_of_nans_is_named():
    """Its completions look like any other's, as argmax takes the first of several NaNs."""
    examples = [Example("a", "0", ""), Example("b", "0", "")]
    rollout = types.SimpleNamespace(logprob=np.array([[0, -np.inf], [0, 0]]), gamma=np.ones(2))
    grading.check_probabilities(rollout, examples)
    rollout.logprob[1, 1] = NAN
    with pytest.raises(UserError, match=r"NaN .* for b and 0 more of 2 completions"):
        grading.check_probabilities(rollout, examples)
