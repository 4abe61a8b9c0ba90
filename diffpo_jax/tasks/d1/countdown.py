r"""d1's verdicts on Countdown answers, with its quirks (see `answers`).

d1 passes an answer to Python's `eval` if all its characters are allowed: "8**(3-2)" and "7//2*3"
count, and so do values that are off by less than 1e-5.  `arithmetic.python_value` computes the
same, and gives up where `eval` would not end.  If d1's check of the numbers passes, the numbers
are those of the instance, so only powers of powers and texts of more than a thousand characters
are given up.  d1's training and its evaluation find the answer in different places.
"""

import re
from collections.abc import Sequence

from diffpo_jax.tasks import protocol
from diffpo_jax.tasks.answers import arithmetic
from diffpo_jax.tasks.d1 import answers
from diffpo_jax.tasks.task import Example

_SIDE = re.compile(r"[0-9+\-*/() ]+")
_REST = re.compile(r"=[0-9. ]")
_TOLERANCE = 1e-5


def reward(example: Example, completion: str, kind: str) -> dict[str, float]:
    """d1's training reward: 0 without an answer, 1 for a right one, 0.1 for any other.

    The answer is the text of the last answer tag, or the whole completion if `kind`, the way
    answers are marked (`config.task.prompt.answer`), is "text".
    """
    answer = completion.strip() or None if kind == "text" else answers.last_tag(completion)
    if answer is None:
        return {"d1": 0.0}
    right = _is_right(answer, example.meta["numbers"], example.meta["target"])
    return {"d1": 1.0 if right else 0.1}


def evaluate(example: Example, completion: str) -> protocol.Verdict:
    r"""d1's evaluation: its verdict, and the expression that it reads.

    It reads the last box; if that is not closed, the first answer tag, or else the whole text.
    LaTeX's \div, \times and \cdot become signs, and only the left side of an equation counts.
    """
    answer = answers.boxed(completion)
    if answer is None:
        answer = answers.first_tag(completion)
    if answer is None:
        answer = completion
    for command, sign in (("\\div", "/"), ("\\times", "*"), ("\\cdot", "*")):
        answer = answer.replace(command, sign)
    for side in _SIDE.finditer(answer):
        if _REST.match(answer, side.end()):
            answer = side[0].strip()
            break
    right = _is_right(answer, example.meta["numbers"], example.meta["target"])
    return protocol.Verdict(right, arithmetic.python_value(answer) is not None, answer)


PROTOCOL = protocol.published(reward, evaluate)


def _is_right(answer: str, numbers: Sequence[int], target: int) -> bool:
    written = re.findall(r"\d+", answer)
    # A longer run of digits is not one of the numbers, or begins with 0, which eval refuses.
    if len(written) != len(numbers) or any(len(digits) > 20 for digits in written):
        return False
    if sorted(map(int, written)) != sorted(numbers):
        return False
    value = arithmetic.python_value(answer)
    if value is None:
        return False
    try:
        return abs(value - target) < _TOLERANCE
    except ArithmeticError:
        return False
