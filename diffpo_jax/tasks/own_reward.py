"""A task with a reward and metrics of the user's in place of, or beside, its own."""

from collections.abc import Sequence

from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.answers import special_tokens
from diffpo_jax.tasks.functions import Function
from diffpo_jax.tasks.task import GIVEN_UP, Example, Reward, Task

_TRIED = 4  # training examples on which functions are tried before a run


class OwnReward:
    """A task whose rewards come from functions; verdicts and answers stay the task's own.

    Functions get the completion with its prefill, up to its first end token.

    Attributes:
      task: the task itself.
    """

    def __init__(self, task: Task, reward: Function | None, metrics: Sequence[Function]):
        """`reward` is None for the task's own; `metrics` are numbers for reports."""
        self.task, self._reward, self._metrics = task, reward, tuple(metrics)
        self.name, self.difficulty_unit = task.name, task.difficulty_unit
        self.reads_special_tokens, self.lay_out = task.reads_special_tokens, task.lay_out
        self.reward_max = task.reward_max if reward is None else reward.largest

    def examples(self, split: str) -> Sequence[Example]:
        """The task's own examples."""
        return self.task.examples(split)

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion.  Raises `UserError` if a function fails."""
        return self.rewards([example], [completion])[0]

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Grades each completion as `reward` does."""
        rewards = self.task.rewards(examples, completions)
        texts = [special_tokens.before_end(text) for text in completions]
        if self._reward is not None:
            own = self._reward.values(examples, texts)
            rewards = [self._replaced(*row) for row in zip(rewards, own, examples, texts)]
        for metric in self._metrics:
            found = metric.values(examples, texts)
            rewards = [_with_metrics(r, values, metric.name) for r, values in zip(rewards, found)]
        return rewards

    def scores(self, examples: Sequence[Example], completions: Sequence[str]) -> dict[str, float]:
        """The task's own scores; the answers that functions gave up count too."""
        scores = self.task.scores(examples, completions)
        own = [f.given_up for f in (self._reward, *self._metrics) if f and f.given_up is not None]
        # All processes of a run must have the same scores, also those that gave up nothing.
        return scores | ({GIVEN_UP: scores.get(GIVEN_UP, 0.0) + sum(own)} if own else {})

    def overlap(self) -> int:
        """That of the task."""
        return self.task.overlap()

    def difficulty(self, example: Example) -> float:
        """That of the task."""
        return self.task.difficulty(example)

    def try_out(self) -> None:
        """Calls the functions on a few examples.  Raises `UserError` if one fails."""
        examples = list(self.examples("train")[:_TRIED])
        for texts in ([e.target for e in examples], [""] * len(examples)):
            self.rewards(examples, texts)

    def _replaced(
        self, reward: Reward, values: dict[str, float], example: Example, text: str
    ) -> Reward:
        name = self._reward.name
        _check_new(values, reward.parts, "config.task.reward")
        self._reward.check_largest(values[name], example, text)
        return reward._replace(
            total=values[name], parts={**reward.parts, **values}, metrics={name: values[name]}
        )


def unwrap(task: Task) -> Task:
    """The task itself, without functions of the user's."""
    return task.task if isinstance(task, OwnReward) else task


def _with_metrics(reward: Reward, values: dict[str, float], name: str) -> Reward:
    _check_new(values, {**reward.parts, **reward.metrics}, "config.evaluation.metrics")
    return reward._replace(metrics={**reward.metrics, **values})


def _check_new(values: dict[str, float], known: dict[str, float], field: str) -> None:
    if same := values.keys() & known.keys():
        raise UserError(
            f"{field}: there is a reward or metric {min(same)!r} already. Give the function, or "
            f"the part that it returns, another name."
        )
