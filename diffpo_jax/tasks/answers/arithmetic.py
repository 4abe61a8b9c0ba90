r"""Arithmetic expressions, evaluated exactly and safely: + - * / and brackets over whole numbers.

1. `_scan` cuts the text into numbers, operators and brackets.
2. `_postfix` puts operators behind their operands (Dijkstra's shunting yard), without recursion.
3. A walk over the result computes with fractions.

Nothing is handed to Python's `eval`.  Length, depth and digits are bounded, so no text takes long.
Other signs for the same are understood: × ⋅ · ÷ − and LaTeX's \times \cdot \div \left \right.
There is no power, no floor division, no decimal point, and no multiplication without a sign.

`python_value` is what Python itself would make of a text, within bounds.  Only the verdicts of d1,
which hands answers to `eval`, need it.
"""

import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

MOST_CHARACTERS = 400  # of an expression
MOST_DIGITS = 12  # of a number in it
MOST_DEPTH = 32  # operators and open brackets that wait for one another

_SIGNS = {"×": "*", "⋅": "*", "·": "*", "÷": "/", "−": "-"}
_LATEX = {"\\times": "*", "\\cdot": "*", "\\div": "/", "\\left": " ", "\\right": " "}
_TOKENS = re.compile(r"[0-9]+|\*\*|//|\\[A-Za-z]+|.", re.DOTALL)
_PYTHON_TOKENS = re.compile(r"[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+|\*\*|//|.", re.DOTALL)
_PYTHON_CHARACTERS = 1000
_PYTHON_DEPTH = 200
_PYTHON_BITS = 4096  # of a power of whole numbers
_UNARY = {"+": "u+", "-": "u-"}
_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "u+": 3, "u-": 3, "**": 4}
_EXACT: Mapping[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "u+": operator.pos,
    "u-": operator.neg,
}


class ExpressionError(ValueError):
    """A text that is no expression; the message says why."""


class Evaluated(NamedTuple):
    """An expression's value and the numbers in it, in the order they are written."""

    value: Fraction
    numbers: tuple[int, ...]


def evaluate(text: str) -> Evaluated:
    """The exact value of an expression (see the module's head).

    Raises:
      ExpressionError: it is none, is too long or too deep, or divides by zero.  No other.
    """
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(f"{len(text)} characters: more than {MOST_CHARACTERS}")
    items, numbers = [], []
    for token in _TOKENS.findall(text):
        token = _SIGNS.get(token) or _LATEX.get(token) or token
        if token.isspace():
            continue
        if re.fullmatch("[0-9]+", token):
            if len(token) > MOST_DIGITS:
                raise ExpressionError(f"a number of {len(token)} digits: more than {MOST_DIGITS}")
            numbers.append(int(token))
            items.append(Fraction(numbers[-1]))
        elif token in _EXACT or token in "()":
            items.append(token)
        else:
            raise ExpressionError(f"{token!r} is not allowed")
    try:
        value = _compute(_postfix(items, MOST_DEPTH), _EXACT)
    except ZeroDivisionError:
        raise ExpressionError("division by zero") from None
    return Evaluated(value, tuple(numbers))


def python_value(text: str) -> int | float | complex | None:
    """What Python makes of a text of digits, dots, blanks, brackets and + - * / ** //.

    Division gives floats, ** groups from the right, a number may not begin with 0; a line ends the
    expression unless a bracket is open.

    Returns:
      The value; None where Python fails, and where this would not be computed here: a text
      beyond 1,000 characters, 200 waiting operators and brackets, or a power of whole numbers
      beyond 4,096 bits (99**99**99, which Python would be at for good).
    """
    text = text.strip()
    if len(text) > _PYTHON_CHARACTERS:
        return None
    items, depth = [], 0
    for token in _PYTHON_TOKENS.findall(text):
        if token in " \t\f" or (depth and token in "\r\n"):
            continue
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token in _PYTHON or token in "()":
            items.append(token)
        elif "." in token[:-1] or (len(token) > 1 and token[-1] == "."):
            items.append(float(token))
        elif re.fullmatch("0+|[1-9][0-9]*", token):
            items.append(int(token))
        else:
            return None
    try:
        return _compute(_postfix(items, _PYTHON_DEPTH), _PYTHON)
    except (ExpressionError, ArithmeticError, TypeError):
        return None


def _power(base: Any, exponent: Any) -> Any:
    whole = isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1
    if whole and base.bit_length() * exponent > _PYTHON_BITS:
        raise OverflowError
    return base**exponent


_PYTHON = {**_EXACT, "//": operator.floordiv, "**": _power}


def _postfix(items: list[Any], most_depth: int) -> list[Any]:
    """Operators behind their operands: `_compute` takes it from there.

    Args:
      items: operands of any type but str; operators and brackets, the keys of `_BINDING`.
      most_depth: how many operators and brackets may wait at a time.

    Raises:
      ExpressionError: an operand, operator or bracket too few or too many; too deep.
    """
    output: list[Any] = []
    waiting: list[str] = []
    after_operand = False
    for item in items:
        if not isinstance(item, str):
            if after_operand:
                raise ExpressionError("two numbers with no operator between them")
            output.append(item)
            after_operand = True
            continue
        if item == "(":
            if after_operand:
                raise ExpressionError("a bracket with no operator before it")
            waiting.append(item)
        elif item == ")":
            if not after_operand:
                raise ExpressionError("a bracket closes where a number should be")
            while waiting and waiting[-1] != "(":
                output.append(waiting.pop())
            if not waiting:
                raise ExpressionError("a bracket closes that was not opened")
            waiting.pop()
        elif not after_operand:
            if item not in _UNARY:
                raise ExpressionError(f"{item!r} where a number should be")
            waiting.append(_UNARY[item])
        else:
            # ** groups from the right: of equals, the one before waits.
            least = _BINDING[item] + (item == "**")
            while waiting and waiting[-1] != "(" and _BINDING[waiting[-1]] >= least:
                output.append(waiting.pop())
            waiting.append(item)
            after_operand = False
        if len(waiting) > most_depth:
            raise ExpressionError(f"deeper than {most_depth}")
    if not after_operand:
        raise ExpressionError("it ends where a number should be" if items else "it is empty")
    while waiting:
        if waiting[-1] == "(":
            raise ExpressionError("a bracket is not closed")
        output.append(waiting.pop())
    return output


def _compute(postfix: list[Any], functions: Mapping[str, Callable[..., Any]]) -> Any:
    stack: list[Any] = []
    for item in postfix:
        if not isinstance(item, str):
            stack.append(item)
        elif item in _UNARY.values():
            stack.append(functions[item](stack.pop()))
        else:
            right = stack.pop()
            stack.append(functions[item](stack.pop(), right))
    return stack[0]
