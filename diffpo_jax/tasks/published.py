"""What the tasks of published problems share: their settings, splits and examples."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from diffpo_jax.config import TaskConfig
from diffpo_jax.tasks.datasets.splits import Question, Splits
from diffpo_jax.tasks.task import Example, Examples, choose_reward
from diffpo_jax.tasks.wording import Wording


class Published(abc.ABC):
    """A task whose rows hold a question and a solution."""

    def __init__(
        self, config: TaskConfig, splits: Splits, rewards: Mapping[str, float], words: str
    ):
        """Checks the settings; rows are read when they are asked for.

        Args:
          rewards: the rewards by name and the most that each gives, the default first; one of
            them is "d1".
          words: the task's own instructions, a template of {question}.

        Raises:
          UserError: an unknown reward, a template that cannot be filled.
        """
        self._config = config
        self._reward = choose_reward(config.reward, config.protocol, tuple(rewards), "d1")
        self.reward_max = rewards[self._reward]
        self._wording = Wording(config.prompt, words, ("question",))
        self._splits = splits
        self._examples: dict[str, Examples] = {}

    def examples(self, split: str) -> Sequence[Example]:
        """Examples of a split (see `Splits.read`); the first call reads the data set.

        Raises:
          UserError: rows that cannot be had or read, or one without a gold answer.
        """
        if split not in self._examples:
            rows = [(q, self._gold(q)) for q in self._splits.read(split)]
            self._examples[split] = Examples(rows, lambda _, row: self._example(*row))
        return self._examples[split]

    def overlap(self) -> int:
        """How many different test questions are training questions too."""
        return self._splits.overlap()

    @abc.abstractmethod
    def _gold(self, question: Question) -> str:
        """The gold answer of a row, as it is written there; `UserError` where there is none."""

    @abc.abstractmethod
    def _meta(self, question: Question) -> dict[str, Any]:
        """What is kept of a row beside its answer; the grader's and `difficulty`'s."""

    def _example(self, question: Question, gold: str) -> Example:
        return self._wording.example(
            id=question.id,
            fields={"question": self._splits.text(question)},
            answer=gold,
            meta={"answer": gold, **self._meta(question)},
        )
