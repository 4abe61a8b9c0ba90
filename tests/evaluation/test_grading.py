"""From token ids to texts and rewards."""

import types

import numpy as np

from diffpo_jax.config import TokenizerConfig
from diffpo_jax.data import tokenizers
from diffpo_jax.evaluation import grading
from diffpo_jax.tasks.task import Example, OneByOne, Reward


class Hard:
    """A task that gave up on two answers."""

    def scores(self, examples, completions):
        return {"d1_accuracy": 0.5, "given_up": 2.0}


class Echo(OneByOne):
    """A task that accepts only the target."""

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
