"""What a task is: examples by split, a reward per completion.  Plain Python, no jax.

A new task is one file with a class that has these members, and one line in
`diffpo_jax.tasks.TASKS`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from diffpo_jax.system.errors import UserError

SPLITS = ("train", "validation", "test")
GIVEN_UP = "given_up"  # the score that counts what this process graded, not the whole set


@dataclasses.dataclass(frozen=True)
class Example:
    """One problem.

    Attributes:
      id: stable across runs, machines and splits; names the example in samples/.
      prompt: the text the model reads.
      target: a right completion, what the base model is trained to write.
      meta: what the grader needs beside that (JSON-like values only).
      prefill: how every completion begins; given to the model and not written by it, but part
        of what is graded.  Where the target begins with it too, the model is trained on the rest.
      chat: whether the prompt is a user's turn of a chat, in the tokenizer's chat template.
    """

    id: str
    prompt: str
    target: str
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prefill: str = ""
    chat: bool = False


class Examples(Sequence[Example]):
    """Examples that are made when asked for; a slice keeps the ids of its examples."""

    def __init__(self, rows: Sequence[Any], make: Callable[[int, Any], Example]):
        """`make` gets the position of a row and the row."""
        self._rows = rows
        self._make = make
        self._positions = range(len(rows))

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index):
        if isinstance(index, slice):
            part = Examples(self._rows, self._make)
            part._positions = self._positions[index]
            return part
        position = self._positions[index]
        return self._make(position, self._rows[position])


class Reward(NamedTuple):
    """The verdict on one completion.

    Attributes:
      total: the task's reward, before any term for speed.  At most `reward_max`; 0 for nothing
        right, and below it where a published reward takes points off.
      parts: every reward the task knows, by name, whether or not `total` uses it.
      correct: whether the completion counts as right in accuracies, by the protocol's evaluation.
      parsed: False when no answer could be read from the completion.
      answer: what was read as the answer, for people; None where nothing was.
    """

    total: float
    parts: Mapping[str, float]
    correct: bool
    parsed: bool
    answer: str | None = None


class OneByOne:
    """For tasks whose grading is quick: many completions are graded one after the other."""

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Grades many completions, each like `reward`."""
        return [self.reward(e, c) for e, c in zip(examples, completions, strict=True)]


@runtime_checkable
class Task(Protocol):
    """The whole interface between a task and the rest of the project.

    `config.task.protocol` decides whose verdicts a task gives: "default", which is right by the
    task's own rules, or "d1", which repeats the published verdicts of d1, quirks included.
    """

    name: str
    reward_max: float  # the largest `Reward.total`: the range in Theorem 1's bound

    def examples(self, split: str) -> Sequence[Example]:
        """Examples of "train", "validation" or "test", by index, in a fixed order."""
        ...

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion, its prefill included.  Never raises, whatever the text."""
        ...

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Grades many completions, each like `reward`; side by side where that takes long."""
        ...

    def scores(self, examples: Sequence[Example], completions: Sequence[str]) -> dict[str, float]:
        """Figures over a whole set, beside accuracy: other protocols' metrics, say.

        `GIVEN_UP` alone counts verdicts that this process could not come to, so far.
        """
        ...

    def overlap(self) -> int:
        """How many test prompts are training prompts too."""
        ...

    def difficulty(self, example: Example) -> float:
        """A number that grows with difficulty (Sudoku: blanks); for reports, and `rl.focus`."""
        ...


def choose_reward(reward: str | None, protocol: str, rewards: Sequence[str], of_d1: str) -> str:
    """The name of the reward to train on.

    Args:
      reward: `config.task.reward`; None: the first of `rewards`, with protocol "d1" `of_d1`.
      rewards: the names of the task's rewards.

    Raises:
      UserError: the task has no such reward.
    """
    if reward is None:
        return of_d1 if protocol == "d1" else rewards[0]
    if reward not in rewards:
        raise UserError(
            f"config.task.reward={reward!r} is unknown; use one of: {', '.join(rewards)}."
        )
    return reward
