"""The Countdown task: reach a target by arithmetic that uses every given number exactly once.

The question is compact, "3,5,2=9"; the answer is an expression, "3*(5-2)".  Instances are
generated, or read from files or the hub in one of two forms:

  d1's (arXiv 2504.12216):        {"input": "30,100,93", "output": "23"}
  with columns nums and target:   {"nums": [30, 100, 93], "target": 23}

Rewards:
  exact: 1 if the answer is an expression of + - * / and brackets that has exactly the target's
    value and uses every number exactly once, else 0.  Of an equation one side must do so, and
    every other side must have the target's value: "3*(5-2)=9", "3*(5-2)=3*3=9".
  graded: as `exact`, but 0.1 for any other expression.
  d1: d1's training reward, 0.1 for any text in the answer's place (`d1.countdown`).

Protocol "default" counts an answer as right if it earns `exact`.  "d1" trains on `d1`, and counts
as right what d1's evaluation does.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import protocol
from diffpo_jax.tasks.answers import arithmetic, dress
from diffpo_jax.tasks.d1 import countdown as d1
from diffpo_jax.tasks.datasets import expressions, hub
from diffpo_jax.tasks.generated import Generated
from diffpo_jax.tasks.task import Example, Layout, Reward

Instance = tuple[str, str, str | None]  # numbers, separated by commas; target; a solution

_FEWEST, _MOST = 2, 6  # numbers of an instance
_MOST_SOLVED = 4  # instances of more numbers are not solved, which takes too long
_LARGEST = 10**9


class Countdown(Generated):
    """Countdown with generated instances, or with those of `train_file` and `test_file`.

    The target of an example from a file is the first solution found.  It is empty if there is
    none, and for instances of more than four numbers, which are not solved.
    """

    name = "countdown"
    difficulty_unit = "numbers"
    PROTOCOLS = protocol.both(d1.PROTOCOL, "exact")
    REWARDS = dict.fromkeys(("exact", "graded", "d1"), 1.0)
    FIELDS = ("question", "numbers", "target")  # "3,5,2=9", "3, 5, 2", "9"
    WORDS = (
        "Reach {target} by arithmetic with the numbers {numbers}: add, subtract, multiply and "
        "divide, with brackets where they are needed, and use each of these numbers exactly once. "
        "The answer is the expression alone, without an equals sign, as in (8-2)*5. {format}"
    )

    @staticmethod
    def lay_out(prompt: str, completion: str) -> Layout:
        """Text, with the numbers that are not those of the prompt's question, if it has one."""
        found = re.findall(r"([0-9][0-9,\s]*)=\s*([0-9]+)", prompt)
        if not found:
            return Layout()
        numbers, target = [int(n) for n in re.findall("[0-9]+", found[-1][0])], int(found[-1][1])
        wrong = _wrong_numbers(completion, numbers)
        return Layout(wrong=wrong, verdict=_describe(completion, numbers, target))

    @staticmethod
    def question_fault(text: str, config: TaskConfig) -> str:
        """An instance has numbers and a target, as 3,5,2=9."""
        own = config.countdown
        counts = f"{own.numbers_min} to {own.numbers_max}"
        if own.numbers_min == own.numbers_max:
            counts = str(own.numbers_min)
        found = re.fullmatch("([0-9]+(?:,[0-9]+)*)=[0-9]+", text)
        if found and own.numbers_min <= len(found[1].split(",")) <= own.numbers_max:
            return ""
        example = "and a target, as 3,5,2=9"
        if found:
            count = len(found[1].split(","))
            return f"has {count} numbers: the model learned on {counts} {example}"
        return f"is no instance: it needs {counts} numbers {example}"

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion (see the module's docstring).  Never raises, whatever the text."""
        answer = self._read_answer(completion)
        right, parsed = judge(answer, example.meta["numbers"], example.meta["target"])
        parts = {"exact": float(right), "graded": 1.0 if right else 0.1 * parsed}
        return self._grade(example, completion, protocol.Verdict(right, parsed, answer), parts)

    def difficulty(self, example: Example) -> float:
        """The number of numbers."""
        return float(len(example.meta["numbers"]))

    def _import_dataset(self) -> Any:
        from diffpo_jax.tasks.datasets.countdown import CountdownInstances

        return CountdownInstances

    def _read_file(self, source: str, field: str, split: str) -> list[Instance]:
        """Reads all test instances, or the training instances of as many numbers as configured."""
        rows = read_instances(source, field, split)
        if split == "test":
            return rows
        low, high = self._config.countdown.numbers_min, self._config.countdown.numbers_max
        kept = [row for row in rows if low <= len(_parse(row)[0]) <= high]
        if not kept:
            raise UserError(
                f"{field}={source} has no instance with "
                f"config.task.countdown.numbers_min..numbers_max={low}..{high} numbers."
            )
        return kept

    def _example(self, place: str, row: Instance) -> Example:
        (numbers, target), solution = _parse(row), row[2]
        if solution is None and len(numbers) <= _MOST_SOLVED:
            solution = expressions.solve(numbers, target)
        question = f"{row[0]}={row[1]}"
        digest = hashlib.sha256(question.encode()).hexdigest()[:8]
        return self._wording.example(
            id=f"countdown/{place}-{digest}",
            fields=dict(zip(self.FIELDS, (question, ", ".join(map(str, numbers)), row[1]))),
            answer=solution or "",
            meta={"numbers": numbers, "target": target},
        )


def judge(answer: str | None, numbers: Sequence[int], target: int) -> tuple[bool, bool]:
    """Whether an answer is right by our own rules, and whether it is an expression at all."""
    if answer is None or len(answer) > arithmetic.MOST_CHARACTERS:
        return False, False
    try:
        texts = dress.remove(answer).replace("\uff1d", "=").split("=")
        # "x = 3*(5-2)" names what follows.
        named = len(texts) > 1 and re.fullmatch(r"\s*[A-Za-z]\s*", texts[0])
        sides = [arithmetic.evaluate(text) for text in texts[1 if named else 0 :]]
    except arithmetic.ExpressionError:
        return False, False
    reached = all(side.value == target for side in sides)
    return reached and any(sorted(side.numbers) == sorted(numbers) for side in sides), True


def _wrong_numbers(expression: str, numbers: Sequence[int]) -> list[int]:
    """The positions of digits of numbers that are not given, or not as often."""
    left, wrong = Counter(numbers), []
    for found in re.finditer("[0-9]+", expression.partition("=")[0]):
        number = int(found[0][: arithmetic.MOST_DIGITS + 1])
        left[number] -= 1
        if left[number] < 0:
            wrong += range(*found.span())
    return wrong


def _describe(expression: str, numbers: Sequence[int], target: int) -> str:
    """What an expression comes to, beside its target."""
    right, parsed = judge(expression, numbers, target)
    if right:
        return f"This is {target}, the target."
    try:
        value = arithmetic.evaluate(expression).value
    except arithmetic.ExpressionError:  # it may be an equation
        kind = "equation that holds" if parsed else "expression"
        return f"This is no {kind}. The target is {target}."
    if value == target:
        return f"This is {target}, the target, but it does not use every number once."
    return f"This is {value}, and the target is {target}."


def read_instances(source: str, field: str, split: str) -> list[Instance]:
    """Reads instances from a file or the hub (`hub.load`), in either form (see above)."""
    rows = hub.load(source, field, split=split, columns=())
    return [_instance(row.values, row.where) for row in rows]


def _instance(values: dict[str, Any], where: str) -> Instance:
    forms = [names for names in (("input", "output"), ("nums", "target")) if names[0] in values]
    if not forms or forms[0][1] not in values:
        raise UserError(
            f"{where} needs columns 'input' and 'output', or 'nums' and 'target'. Its columns: "
            f"{', '.join(map(str, values)) or 'none'}."
        )
    first, second = forms[0]
    numbers, target = values[first], _integer(values[second])
    if isinstance(numbers, str):
        numbers = re.split(r"[,\s]+", numbers.strip("[]() \t"))
    numbers = [_integer(n) for n in numbers] if isinstance(numbers, list | tuple) else [None]
    if None in numbers or not _FEWEST <= len(numbers) <= _MOST:
        raise UserError(
            f"{where}: {first}={values[first]!r:.80} must be {_FEWEST} to {_MOST} whole numbers."
        )
    if target is None:
        raise UserError(f"{where}: {second}={values[second]!r:.80} must be a whole number.")
    return ",".join(map(str, numbers)), str(target), None


def _parse(row: Instance) -> tuple[list[int], int]:
    return [int(n) for n in row[0].split(",")], int(row[1])


def _integer(value: Any) -> int | None:
    """The value as an integer if it is a whole number, or its digits, and not negative."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value.strip()):
        value = int(value)
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
    return value if valid else None
