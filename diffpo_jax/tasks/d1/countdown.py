r"""d1's verdicts on Countdown answers, quirks included (see `d1_answers`).

d1 hands an answer to Python's `eval` once its characters pass: "8**(3-2)" and "7//2*3" count, and
so do values that are off by less than 1e-5.  Here `arithmetic.python_value` stands for it, which
gives up where `eval` would not end.  Wherever d1's numbers check passes, numbers are those of the
instance, so what is given up are powers of powers and texts of more than a thousand characters.
Training and evaluation look for the answer in different places.
"""

import re
from collections.abc import Sequence

from diffpo_jax.tasks.answers import arithmetic
from diffpo_jax.tasks.d1 import answers

_SIDE = re.compile(r"[0-9+\-*/() ]+")
_REST = re.compile(r"=[0-9. ]")
_NEAR = 1e-5


def reward(completion: str, kind: str, numbers: Sequence[int], target: int) -> float:
    """d1's training reward: 0 without an answer, 1 for a right one, 0.1 for any other.

    The answer is what the last answer tag holds; the whole completion where `kind`, the way
    answers are marked (`config.task.prompt.answer`), is "text".
    """
    answer = completion.strip() or None if kind == "text" else answers.last_tag(completion)
    if answer is None:
        return 0.0
    return 1.0 if _is_right(answer, numbers, target) else 0.1


def evaluation(completion: str, numbers: Sequence[int], target: int) -> tuple[str, bool]:
    r"""What d1's evaluation takes for the expression, and whether it counts as right.

    The last box; where it is not closed the first answer tag, or else the whole text.  LaTeX's
    \div, \times and \cdot become signs, and of an equation the left side is taken.
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
    return answer, _is_right(answer, numbers, target)


def _is_right(answer: str, numbers: Sequence[int], target: int) -> bool:
    written = re.findall(r"\d+", answer)
    # A run of so many digits is none of the numbers, or begins with 0, which eval refuses.
    if len(written) != len(numbers) or any(len(digits) > 20 for digits in written):
        return False
    if sorted(map(int, written)) != sorted(numbers):
        return False
    value = arithmetic.python_value(answer)
    if value is None:
        return False
    try:
        return abs(value - target) < _NEAR
    except ArithmeticError:
        return False
