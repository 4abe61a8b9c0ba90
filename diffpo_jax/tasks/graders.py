r"""The graders of the task jsonl by name (`config.task.jsonl.grader`).

  exact    the same text, apart from white space around it
  number   the same number, however it is written, as for GSM8K (`answers.numbers`)
  math     the same meaning, as for MATH-500 (`answers.math_equality`)
  choice   the same letter from A to E: "B", "(b)", "B. Paris", "The answer is B"
  regex    the same text in the first group of the last match of `config.task.jsonl.regex`
  package.module:function    what a function of (example, answer) says: True or False, or a number
           from 0 to 1 of which 1 is right

All of them get the answer as `config.task.prompt.answer` marks it: without its tags or box.
"""

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import functions
from diffpo_jax.tasks.answers import dress, numbers
from diffpo_jax.tasks.answers.algebra import Verifier
from diffpo_jax.tasks.task import Example

WHERE = "config.task.jsonl"

# A letter, or a letter and a mark before further words: "A cat" is no choice.
_CHOICE = re.compile(r"[(\[]?([A-Ea-e])(?:[)\].:]{0,2}|[)\].:]{1,2}\s.*)", re.DOTALL)


class Grader(Protocol):
    """Grades answers; `given_up` counts those that took too long so far, or is None if none can."""

    given_up: int | None

    def grade(
        self, examples: Sequence[Example], answers: Sequence[str | None]
    ) -> list[float | None]:
        """1 for a right answer, 0 or a share for a wrong one, None for one that cannot be read."""
        ...


class _ByReading:
    """Reads the answer and the gold answer, `Example.meta["answer"]`, and compares the two."""

    given_up = None

    def __init__(self, read: Callable[[str], object]):
        """`read` returns None for a text that it cannot read."""
        self._read = read

    def grade(
        self, examples: Sequence[Example], answers: Sequence[str | None]
    ) -> list[float | None]:
        read = [None if answer is None else self._read(answer) for answer in answers]
        return [
            None if value is None else float(value == self._read(example.meta["answer"]))
            for example, value in zip(examples, read, strict=True)
        ]


class _Math:
    """Compares by meaning, if need be by algebra in worker processes."""

    def __init__(self, config: TaskConfig):
        self._verifier = Verifier(limit_s=config.grader_seconds, processes=config.grader_processes)

    @property
    def given_up(self) -> int:
        return self._verifier.killed

    def grade(
        self, examples: Sequence[Example], answers: Sequence[str | None]
    ) -> list[float | None]:
        golds = [example.meta["answer"] for example in examples]
        equal = self._verifier.equal([(g, a or "") for g, a in zip(golds, answers, strict=True)])
        return [float(bool(x)) if answer else None for x, answer in zip(equal, answers)]


class _ByFunction:
    """Asks a function of the user's."""

    def __init__(self, function: functions.Function):
        self._function = function

    @property
    def given_up(self) -> int | None:
        return self._function.given_up

    def grade(
        self, examples: Sequence[Example], answers: Sequence[str | None]
    ) -> list[float | None]:
        pairs = [(e, a) for e, a in zip(examples, answers, strict=True) if a is not None]
        values = iter(self._function.values(*zip(*pairs)) if pairs else [])
        result = []
        for example, answer in zip(examples, answers):
            if answer is None:
                result.append(None)
                continue
            value = next(values)[self._function.name]
            if not 0 <= value <= 1:
                fault = f"returned {value:g}; a grader returns True or False, or a share of 1"
                raise self._function.error(fault, example, answer)
            result.append(value)
        return result


def make(config: TaskConfig) -> Grader:
    """The grader that `config.jsonl.grader` names.

    Raises:
      UserError: there is no such grader; a faulty pattern; a function that cannot be imported.
    """
    own, kind = config.jsonl, config.prompt.answer
    if functions.is_function(own.grader):
        limits = {"limit_s": config.grader_seconds, "processes": config.grader_processes}
        return _ByFunction(functions.Function(own.grader, f"{WHERE}.grader", **limits))
    if own.grader == "math":
        return _Math(config)
    readers = {
        "exact": lambda: lambda text: text.strip() or None,
        "number": lambda: numbers.read_last if kind == "text" else numbers.read,
        "choice": lambda: _read_letter,
        "regex": lambda: _reader_of(own.regex),
    }
    if own.grader not in readers:
        names = ", ".join([*readers, "math"])
        raise UserError(
            f"{WHERE}.grader={own.grader!r} is unknown; use one of: {names}; or a function of "
            "your own, package.module:function."
        )
    return _ByReading(readers[own.grader]())


def _read_letter(text: str) -> str | None:
    found = _CHOICE.fullmatch(dress.remove(text))
    return found[1].upper() if found else None


def _reader_of(pattern: str | None) -> Callable[[str], str | None]:
    """What reads the first group of the last match."""
    if pattern is None:
        raise UserError(
            f"{WHERE}.regex is missing: the grader 'regex' needs a pattern with a group, such as "
            f"--{WHERE}.regex='#### (.*)'."
        )
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{WHERE}.regex={pattern!r} is no pattern: {error}.") from error
    if not compiled.groups:
        raise UserError(f"{WHERE}.regex={pattern!r} has no group (...), which holds the answer.")

    def read(text: str) -> str | None:
        found = [match[1] for match in compiled.finditer(text)]
        return found[-1].strip() if found and found[-1] else None

    return read
