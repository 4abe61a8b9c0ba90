"""The Countdown task: reach a target by arithmetic, using every given number exactly once.

The question is compact, "3,5,2=9"; the answer is an expression, "3*(5-2)".  Instances are
generated, or read from files or the hub in one of two forms:

  d1's (arXiv 2504.12216):    {"input": "30,100,93", "output": "23"}
  with columns nums, target:  {"nums": [30, 100, 93], "target": 23}

Rewards:
  exact: 1 if the answer is an expression of + - * / and brackets with exactly the target's value
    that uses every number exactly once, else 0.  "EXPRESSION=TARGET" is read as its left side.
  graded: the same, but 0.1 for any other expression.
  d1: d1's training reward, 0.1 for whatever stands where the answer should (`d1_countdown`).

Protocol "default" counts what earns `exact` as right.  "d1" trains on `d1`, and counts as right
what d1's evaluation does.
"""

import hashlib
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.answers import arithmetic, extract
from diffpo_jax.tasks.d1 import countdown
from diffpo_jax.tasks.datasets import expressions, hub
from diffpo_jax.tasks.task import SPLITS, Example, Examples, OneByOne, Reward, choose_reward
from diffpo_jax.tasks.wording import Wording

REWARDS = ("exact", "graded", "d1")
FIELDS = ("question", "numbers", "target")  # of prompt templates: "3,5,2=9", "3, 5, 2", "9"
WORDS = (
    "Reach {target} by arithmetic with the numbers {numbers}: add, subtract, multiply and divide, "
    "with brackets where they are needed, and use each of these numbers exactly once. The answer "
    "is the expression alone, without an equals sign, as in (8-2)*5. {format}"
)

Instance = tuple[str, str, str | None]  # numbers, separated by commas; target; a solution

_FEWEST, _MOST = 2, 6  # numbers of an instance
_MOST_SOLVED = 4  # numbers up to which a solution is searched for
_LARGEST = 10**9


class Countdown(OneByOne):
    """Countdown with generated instances, or with those of `train_file` and `test_file`."""

    name = "countdown"
    reward_max = 1.0

    def __init__(self, config: TaskConfig, data_dir: pathlib.Path):
        """Checks the settings and reads the files; instances are generated when asked for.

        Args:
          config: the section `config.task`.
          data_dir: where generated instances are kept.

        Raises:
          UserError: settings no instance can meet, an unknown reward, a faulty file.
        """
        # Here and not above: TensorFlow Datasets takes a second to import.
        from diffpo_jax.tasks.datasets import countdown as dataset

        self._reward = choose_reward(config.reward, config.protocol, REWARDS, "d1")
        dataset.check_settings(config.countdown)
        self._dataset = dataset
        self._config = config
        self._data_dir = data_dir
        self._wording = Wording(config.prompt, WORDS, FIELDS)
        self._rows: dict[str, Sequence[Instance]] = {}
        if config.train_file:
            self._rows["train"] = self._read_train(config.train_file)
        if config.test_file:
            self._rows["test"] = read(config.test_file, "config.task.test_file", "test")

    def examples(self, split: str) -> Sequence[Example]:
        """Examples of a split in a fixed order; the first call may generate the data set.

        The target of an instance from a file is the first solution that is found; of more than
        four numbers none is searched for, and the target is empty, as where there is none.

        Raises:
          UserError: the data directory cannot be written, or instances cannot be found.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {SPLITS}")
        if split not in self._rows:
            self._rows[split] = self._dataset.load(self._config.countdown, self._data_dir, split)
        return Examples(self._rows[split], lambda i, row: self._example(f"{split}/{i}", row))

    def overlap(self, split: str = "test") -> int:
        """How many instances of a split are training instances too, in any order of the numbers.

        Zero for generated instances; with `train_file` or `test_file` it may be anything.
        """
        keys = []
        for name in ("train", split):
            self.examples(name)
            keys.append({self._dataset.key(*_parse(row)) for row in self._rows[name]})
        return len(keys[0] & keys[1])

    def reward(self, example: Example, completion: str) -> Reward:
        """Grades one completion (see the module's head).  Never raises, whatever the text."""
        kind = self._config.prompt.answer
        numbers, target = example.meta["numbers"], example.meta["target"]
        answer = extract.read(completion, kind)
        right, parsed = judge(answer, numbers, target)
        parts = {
            "exact": float(right),
            "graded": 1.0 if right else 0.1 * parsed,
            "d1": countdown.reward(completion, kind, numbers, target),
        }
        if self._config.protocol == "d1":
            answer, right = countdown.evaluation(completion, numbers, target)
            parsed = arithmetic.python_value(answer) is not None
        return Reward(parts[self._reward], parts, correct=right, parsed=parsed, answer=answer)

    def scores(self, examples: Sequence[Example], completions: Sequence[str]) -> dict[str, float]:
        """The share that d1's evaluation counts as right, whatever the protocol."""
        right = sum(
            countdown.evaluation(text, example.meta["numbers"], example.meta["target"])[1]
            for example, text in zip(examples, completions, strict=True)
        )
        return {"d1_accuracy": right / len(examples) if examples else 0.0}

    def difficulty(self, example: Example) -> float:
        """How many numbers there are."""
        return float(len(example.meta["numbers"]))

    def _read_train(self, source: str) -> list[Instance]:
        low, high = self._config.countdown.numbers_min, self._config.countdown.numbers_max
        rows = read(source, "config.task.train_file", "train")
        kept = [row for row in rows if low <= len(_parse(row)[0]) <= high]
        if not kept:
            raise UserError(
                f"config.task.train_file={source} has no instance of "
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
            fields={
                "question": question,
                "numbers": ", ".join(map(str, numbers)),
                "target": row[1],
            },
            answer=solution or "",
            meta={"numbers": numbers, "target": target},
        )


def judge(answer: str | None, numbers: Sequence[int], target: int) -> tuple[bool, bool]:
    """(right, an expression) by our own rules; see `exact` and `graded` in the module's head."""
    if answer is None:
        return False, False
    expression, equals, value = answer.rpartition("=")
    if equals and value.strip() == str(target):
        answer = expression
    try:
        found = arithmetic.evaluate(answer)
    except arithmetic.ExpressionError:
        return False, False
    return found.value == target and sorted(found.numbers) == sorted(numbers), True


def read(source: str, field: str, split: str) -> list[Instance]:
    """Instances of a file or of the hub (`hub.load`), in either form of the module's head.

    Returns:
      (numbers separated by commas, target, no solution) of each row.

    Raises:
      UserError: what `hub.load` refuses, and a row in neither form (with its place).
    """
    rows = hub.load(source, field, split=split, columns=())
    return [_instance(row.values, row.where) for row in rows]


def _instance(values: dict[str, Any], where: str) -> Instance:
    forms = [names for names in (("input", "output"), ("nums", "target")) if names[0] in values]
    if not forms or forms[0][1] not in values:
        there = ", ".join(map(str, values)) or "none"
        raise UserError(
            f"{where} needs columns 'input' and 'output', or 'nums' and 'target'. Its columns: "
            f"{there}."
        )
    first, second = forms[0]
    given, target = values[first], _integer(values[second])
    if isinstance(given, str):
        given = re.split(r"[,\s]+", given.strip("[]() \t"))
    numbers = [_integer(n) for n in given] if isinstance(given, list | tuple) else [None]
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
    """A whole number that is not negative, or its digits, as an integer; else None."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value.strip()):
        value = int(value)
    fine = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
    return value if fine else None
