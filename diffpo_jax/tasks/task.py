"""What a task is: examples by split, a reward per completion.  Plain Python, no jax.

A new task is one file with a class that has these members, and one line in
`diffpo_jax.tasks.TASKS`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Example:
    """One problem.

    Attributes:
      id: stable across runs, machines and splits; names the example in samples/.
      prompt: the text the model reads.
      target: a right completion, what the base model is trained to write.
      meta: what the grader needs beside that (JSON-like values only).
    """

    id: str
    prompt: str
    target: str
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Reward(NamedTuple):
    """The verdict on one completion.

    Attributes:
      total: the task's reward, before any term for speed.  Lies in [0, reward_max].
      parts: every reward the task knows, by name, whether or not `total` uses it.
      correct: whether the completion counts as right in accuracies.
      parsed: False when no answer could be read from the completion.
    """

    total: float
    parts: Mapping[str, float]
    correct: bool
    parsed: bool


@runtime_checkable
class Task(Protocol):
    """The whole interface between a task and the rest of the project."""

    name: str
    reward_max: float  # the largest `Reward.total`: the range in Theorem 1's bound

    def examples(self, split: str) -> Sequence[Example]:
        """Examples of "train", "validation" or "test", by index, in a fixed order."""
        ...

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion.  Never raises, whatever the text."""
        ...

    def scores(self, examples: Sequence[Example], completions: Sequence[str]) -> dict[str, float]:
        """Figures over a whole set, beside accuracy: other protocols' metrics, say."""
        ...

    def overlap(self) -> int:
        """How many test prompts are training prompts too."""
        ...

    def difficulty(self, example: Example) -> float:
        """A number that grows with difficulty (Sudoku: blanks); used in reports only."""
        ...
