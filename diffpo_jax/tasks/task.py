"""The interface of a task: examples by split, and a reward per completion.  No jax.

A new task is a class that has the members of `Task`, and one line in `diffpo_jax.tasks.TASKS`, or
none if `config.task.name` is "package.module:Class".
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from diffpo_jax.system.errors import UserError

SPLITS = ("train", "validation", "test")
GIVEN_UP = "given_up"  # the score that counts the answers that this process gave up


@dataclasses.dataclass(frozen=True)
class Example:
    """One problem.

    Attributes:
      id: the name of the example in samples/, the same in all runs, machines and splits.
      prompt: the text that the model reads.
      target: a right completion, which the base model is trained to write.
      meta: further values for the grader (JSON-like values only).
      prefill: the beginning of every completion, given to the model and graded with the rest.
        If the target begins with it, the model is trained on the remainder.
      chat: whether the prompt becomes a user's turn in the tokenizer's chat template.
    """

    id: str
    prompt: str
    target: str
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prefill: str = ""
    chat: bool = False


class Examples(Sequence[Example]):
    """Examples that are made when they are indexed.  A slice keeps the ids of its examples."""

    def __init__(self, rows: Sequence[Any], make: Callable[[int, Any], Example]):
        """`make` makes an example of a row, given its position and the row."""
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
      total: the task's reward, before any term for speed.  At most `reward_max`; 0 if nothing
        is right, and negative if a published reward subtracts points.
      parts: all rewards of the task by name, whether or not `total` uses them.
      correct: whether the completion counts as right in accuracies, by the protocol's evaluation.
      parsed: whether an answer could be read from the completion.
      answer: the answer that was read, for people, or None.
      metrics: further numbers by name that evaluations report (`config.evaluation.metrics`).
    """

    total: float
    parts: Mapping[str, float]
    correct: bool
    parsed: bool
    answer: str | None = None
    metrics: Mapping[str, float] = {}


class Layout(NamedTuple):
    """How a completion is shown to people.  Positions are those of its characters.

    Attributes:
      columns: cells per line if it is a board with a character in each cell, 0 if it is text.
      box: cells along a side of the boxes that the board is divided into, 0 for none.
      given: positions that the prompt decides, such as the clues of a puzzle.
      wrong: positions that cannot be right.
      verdict: what to say about the whole of it; may be empty.
    """

    columns: int = 0
    box: int = 0
    given: Sequence[int] = ()
    wrong: Sequence[int] = ()
    verdict: str = ""


class OneByOne:
    """Grades many completions one after the other, for tasks that grade quickly."""

    difficulty_unit = "difficulty"
    reads_special_tokens = False

    @staticmethod
    def lay_out(prompt: str, completion: str) -> Layout:
        """Completions are text."""
        del prompt, completion
        return Layout()

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Grades each completion as `reward` does."""
        return [self.reward(e, c) for e, c in zip(examples, completions, strict=True)]


@runtime_checkable
class Task(Protocol):
    """The whole interface between a task and the rest of the project.

    `config.task.protocol` chooses the verdicts: "default" for the task's own rules, or "d1" for
    the published verdicts of d1, with their quirks.
    """

    name: str
    reward_max: float  # the largest `Reward.total`, the range in the bound of Theorem 1
    difficulty_unit: str  # what `difficulty` counts, in the plural, for reports
    # Whether completions are whole, with end tokens and all that follows, as d1's evaluation reads
    # them.  Otherwise they end before the first end token.
    reads_special_tokens: bool

    @staticmethod
    def lay_out(prompt: str, completion: str) -> Layout:
        """How a completion, with its prefill, is shown.  Never raises, whatever the texts."""
        ...

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of "train", "validation" or "test", in a fixed order."""
        ...

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion with its prefill.  Never raises, whatever the text."""
        ...

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Grades each completion as `reward` does, in parallel if that takes long."""
        ...

    def scores(self, examples: Sequence[Example], completions: Sequence[str]) -> dict[str, float]:
        """Figures over a whole set beside accuracy, such as the metrics of other protocols.

        `GIVEN_UP` is the exception: it counts the answers that this process gave up so far.
        """
        ...

    def overlap(self) -> int:
        """How many test prompts are also training prompts."""
        ...

    def difficulty(self, example: Example) -> float:
        """A number that grows with difficulty (Sudoku: blanks), for reports and prompt sampling."""
        ...


def check_finite(rewards: Sequence[Reward], examples: Sequence[Example], task: str) -> None:
    """Raises `UserError` on a reward, or a part or metric of one, that is no finite number.

    Args:
      examples: that of each reward.
      task: the name of the task, for messages.
    """
    for example, reward in zip(examples, rewards):
        named = {"reward": reward.total}
        named |= {f"part {name!r} of its reward": x for name, x in reward.parts.items()}
        named |= {f"metric {name!r}": x for name, x in reward.metrics.items()}
        for name, value in named.items():
            if not _is_finite(value):
                raise UserError(
                    f"the task {task!r} gives the completion of example {example.id} a {name} of "
                    f"{value!r:.60}: it must be a finite number. Correct the task's `reward`."
                )


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False


def choose_reward(reward: str | None, rewards: Sequence[str], default: str) -> str:
    """The name of the reward to train on: `reward`, or `default` if that is None.

    Raises `UserError` if it is not one of `rewards`, the names of the task's rewards.
    """
    reward = default if reward is None else reward
    if reward not in rewards:
        raise UserError(
            f"config.task.reward={reward!r} is unknown; use one of: {', '.join(rewards)}; or a "
            "function of your own, package.module:function."
        )
    return reward
