"""Protocols: which rules decide the verdicts of a task, its own or those published with d1.

Each task has two records of type `Protocol`, "default" and "d1", or only the first.  It uses the
one that `config.task.protocol` names.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from diffpo_jax.tasks.task import Example


class Verdict(NamedTuple):
    """Whether a completion counts as right, whether an answer was read from it, and which."""

    correct: bool
    parsed: bool
    answer: str | None


class Protocol(NamedTuple):
    """What a protocol decides.  `kind` is how answers are marked (`config.task.prompt.answer`).

    Attributes:
      reward: the name of the reward to train on if `config.task.reward` is None.
      parts: (example, completion, kind) -> rewards by name, beside those of the task itself.
      verdict: (example, completion, the verdict by the task's own rules) -> the verdict.
      scores: (examples, completions, kind) -> figures over a whole set.
      reads_special_tokens: whether completions keep their special tokens (`Task`).
    """

    reward: str
    parts: Callable[[Example, str, str], dict[str, float]]
    verdict: Callable[[Example, str, Verdict], Verdict]
    scores: Callable[[Sequence[Example], Sequence[str], str], dict[str, float]]
    reads_special_tokens: bool = False


def published(
    parts: Callable[[Example, str, str], dict[str, float]],
    verdict: Callable[[Example, str], Verdict],
) -> Protocol:
    """d1's protocol for a task whose `scores` are d1's accuracy.  It trains on the part "d1"."""

    def scores(examples: Sequence[Example], completions: Sequence[str], kind: str):
        right = sum(verdict(e, c).correct for e, c in zip(examples, completions, strict=True))
        return {"d1_accuracy": right / max(len(examples), 1)}

    return Protocol("d1", parts, lambda example, text, own: verdict(example, text), scores, True)


def both(d1: Protocol, reward: str) -> dict[str, Protocol]:
    """The protocols by name: d1's, and one that keeps the task's own verdicts and `reward`."""
    own = d1._replace(reward=reward, verdict=keep_own, reads_special_tokens=False)
    return {"default": own, "d1": d1}


def only_own(reward: str) -> dict[str, Protocol]:
    """The only protocol of a task that d1 does not have, "default": the task's own verdicts."""
    return {"default": Protocol(reward, lambda *_: {}, keep_own, lambda *_: {})}


def keep_own(example: Example, completion: str, own: Verdict) -> Verdict:
    """The `Protocol.verdict` of protocol "default": the verdict by the task's own rules."""
    del example, completion
    return own
