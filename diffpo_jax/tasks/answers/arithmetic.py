r"""Evaluates arithmetic expressions exactly and safely: + - * / and brackets over whole numbers.

Python's `eval` is not used.  Length, depth and digits are bounded, so no text takes long.  The
signs × ⋅ · ÷ − of Unicode, 3 x 5, [ ] and LaTeX's \frac{6}{2} \times \cdot \div \left \right { }
are understood.  Powers, floor division, decimal points and products without a sign are not.

`python_value` gives the value by Python's own rules, within bounds.  Only the verdicts of d1, which
passes answers to `eval`, need it.
"""

import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from diffpo_jax.tasks.answers import characters, dress

MOST_CHARACTERS = 400  # of an expression
MOST_DIGITS = 12  # of a number
MOST_DEPTH = 32  # operators and brackets that wait for their operands

_SIGNS = characters.SIGNS | dict.fromkeys(characters.TIMES, "*")
_LETTER_TIMES = re.compile(r"(?<=[0-9)\]}])\s*[xX]\s*(?=[0-9(\[{])")
_LATEX = {"\\times": "*", "\\cdot": "*", "\\ast": "*", "\\div": "/"}
_LATEX |= dict.fromkeys(("\\left", "\\right", "\\,", "\\;", "\\!", "\\ ", "~"), " ")
_CLOSING = {")": "(", "]": "[", "}": "{"}
_TOKENS = re.compile(r"[0-9]+|\*\*|//|\\(?:[A-Za-z]+|.)|.", re.DOTALL)
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?=[0-9{])")
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
    """The text is not an expression.  The message says why."""


class Evaluated(NamedTuple):
    """The value of an expression, and its numbers in the order of the text."""

    value: Fraction
    numbers: tuple[int, ...]


def evaluate(text: str) -> Evaluated:
    """The exact value of an expression (see the module's docstring).

    Raises:
      ExpressionError: the text is not an expression, too long, too deep, or divides by zero.  No
        other exception is raised.
    """
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(f"{len(text)} characters: more than {MOST_CHARACTERS}")
    items, numbers, opened = [], [], []
    for token in _TOKENS.findall(_LETTER_TIMES.sub("*", _with_slashes(text))):
        token = _SIGNS.get(token, _LATEX.get(token, token))
        if not token or token.isspace():
            continue
        if token in _CLOSING.values():
            opened.append(token)
            token = "("
        elif token in _CLOSING:
            if opened and opened.pop() != _CLOSING[token]:
                raise ExpressionError(f"{token!r} closes another bracket")
            token = ")"
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
        value = _compute(items, _EXACT, MOST_DEPTH)
    except ZeroDivisionError:
        raise ExpressionError("division by zero") from None
    return Evaluated(value, tuple(numbers))


def _with_slashes(text: str) -> str:
    r"""The text with \frac{6}{2} as ((6)/(2)), the innermost and last fraction first."""
    for _ in range(MOST_DEPTH):
        found = [match for match in _FRACTION.finditer(text)][-1:]
        if not found:
            break
        top, after_top = _argument(text, found[0].end())
        bottom, after = _argument(text, after_top)
        text = f"{text[: found[0].start()]}(({top})/({bottom})){text[after:]}"
    return text


def _argument(text: str, start: int) -> tuple[str, int]:
    """The argument of a command that begins at `start`, and the place after it."""
    start += len(text[start:]) - len(text[start:].lstrip())
    if text.startswith("{", start):
        end = dress.closing_brace(text, start + 1)
        if end is None:
            raise ExpressionError("a brace is not closed")
        return text[start + 1 : end], end + 1
    if not re.match("[0-9]", text[start:]):
        raise ExpressionError("a fraction without a number")
    return text[start], start + 1


def python_value(text: str) -> int | float | complex | None:
    """The value by Python's rules of a text of digits, dots, spaces, brackets and + - * / ** //.

    Division gives floats, ** groups from the right, a number may not begin with 0, and a newline
    ends the expression unless a bracket is open.

    Returns:
      The value, or None if Python fails, or beyond the bounds of this function: 1,000 characters,
      200 waiting operators and brackets, 4,096 bits of a power of whole numbers (99**99**99 would
      never end in Python).
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
        return _compute(items, _PYTHON, _PYTHON_DEPTH)
    except (ExpressionError, ArithmeticError, TypeError):
        return None


def _power(base: Any, exponent: Any) -> Any:
    whole = isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1
    if whole and base.bit_length() * exponent > _PYTHON_BITS:
        raise OverflowError
    return base**exponent


_PYTHON = {**_EXACT, "//": operator.floordiv, "**": _power}


def _compute(items: list[Any], functions: Mapping[str, Callable[..., Any]], most_depth: int) -> Any:
    """The value of an expression, by Dijkstra's shunting yard, without recursion.

    Args:
      items: operands of any type but str; operators (keys of `_BINDING`) and brackets.
      functions: the operators' functions.  Whatever they raise is raised.
      most_depth: how many operators and brackets may wait at a time.

    Raises:
      ExpressionError: an operand, operator or bracket is missing or surplus; too deep.
    """
    values: list[Any] = []
    waiting: list[str] = []

    def apply() -> None:
        name, right = waiting.pop(), values.pop()
        left = [] if name in _UNARY.values() else [values.pop()]
        values.append(functions[name](*left, right))

    after_operand = False
    for item in items:
        if not isinstance(item, str):
            if after_operand:
                raise ExpressionError("two numbers with no operator between them")
            values.append(item)
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
                apply()
            if not waiting:
                raise ExpressionError("a bracket closes that was not opened")
            waiting.pop()
        elif not after_operand:
            if item not in _UNARY:
                raise ExpressionError(f"{item!r} where a number should be")
            waiting.append(_UNARY[item])
        else:
            # ** groups from the right, so an earlier ** keeps waiting.
            least = _BINDING[item] + (item == "**")
            while waiting and waiting[-1] != "(" and _BINDING[waiting[-1]] >= least:
                apply()
            waiting.append(item)
            after_operand = False
        if len(waiting) > most_depth:
            raise ExpressionError(f"deeper than {most_depth}")
    if not after_operand:
        raise ExpressionError("it ends where a number should be" if items else "it is empty")
    while waiting:
        if waiting[-1] == "(":
            raise ExpressionError("a bracket is not closed")
        apply()
    return values[0]
