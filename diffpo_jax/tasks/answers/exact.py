"""Whether expressions are equal, as far as the arithmetic of rational numbers decides it.

There is one rule for approximations: an answer that is a decimal is only right if it has the gold's
value; if the gold is a decimal, an answer without decimals (22/7, \\pi, \\sqrt{2}) is also right if
it rounds to the gold at the gold's own decimals.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Protocol

from diffpo_jax.tasks.answers.math_tree import Apply, Expression, Name, NotUnderstood, Number

INFINITY = Name("infty")
_MOST_BITS = 20_000  # of a numerator or denominator


class Undecided(Exception):
    """The comparison needs algebra."""


class Algebra(Protocol):
    """How expressions are compared.  Both functions may raise `Undecided`."""

    def same(self, gold: Expression, answer: Expression) -> bool:
        """Whether an answer has the gold's value, or rounds to it (see the module's docstring)."""
        ...

    def proportional(self, gold: Expression, answer: Expression, positive: bool) -> bool:
        """Whether their ratio is a constant other than 0, and positive if it must be."""
        ...


class Exact:
    """Compares rational numbers, and expressions that are written alike."""

    def same(self, gold: Expression, answer: Expression) -> bool:
        """See `Algebra`."""
        if gold == answer:
            return True
        if has_infinity(gold) or has_infinity(answer):
            return False  # 2\infty is no way to write it
        a, b = rational(gold), rational(answer)
        if a is None or b is None:
            raise Undecided
        return a == b or (not terminates(b) and rounds_to(gold, answer, lambda: b))

    def proportional(self, gold: Expression, answer: Expression, positive: bool) -> bool:
        """See `Algebra`."""
        del positive
        if gold == answer:
            return True
        raise Undecided


def rational(value: Expression) -> Fraction | None:
    """The value if it is a rational number by arithmetic alone, else None.

    Raises `NotUnderstood` if it divides by zero, or if a number is too large to compute with.
    """
    if isinstance(value, Number):
        return value.value
    if isinstance(value, Name):
        return None
    operands = [rational(operand) for operand in value.operands]
    if None in operands:
        return None
    if sum(map(_bits, operands)) > _MOST_BITS:
        raise NotUnderstood("a number too large to compute with")
    try:
        return _arithmetic(value.function, operands)
    except ZeroDivisionError:
        raise NotUnderstood("a division by zero") from None


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _arithmetic(function: str, operands: list[Fraction]) -> Fraction | None:
    first, second = operands[0], operands[-1]
    match function:
        case "+":
            return sum(operands, Fraction(0))
        case "-":
            return -first
        case "*":
            return math.prod(operands, start=Fraction(1))
        case "/":
            return first / second
        case "abs":
            return abs(first)
        case "^":
            whole = second.denominator == 1 and is_small_power(first, second)
            return first ** int(second) if whole else None
    return None


def is_small_power(base: Fraction, exponent: Fraction) -> bool:
    """Whether a power of rational numbers can be computed at once, unlike 9^{9^9}."""
    return abs(exponent) * _bits(base) <= _MOST_BITS


def terminates(value: Fraction) -> bool:
    """Whether the decimals of a number end."""
    rest = value.denominator
    rest //= rest & -rest  # without its factors 2
    while rest % 5 == 0:
        rest //= 5
    return rest == 1


def has_infinity(value: Expression) -> bool:
    """Whether infinity occurs in an expression."""
    if isinstance(value, Apply):
        return any(has_infinity(operand) for operand in value.operands)
    return value == INFINITY


def rounds_to(gold: Expression, answer: Expression, value: Callable[[], Fraction]) -> bool:
    """Whether the gold is a decimal, the answer has none, and its value rounds to the gold."""
    number = gold.operands[0] if isinstance(gold, Apply) and gold.function == "-" else gold
    if not isinstance(number, Number) or number.decimals is None or _has_decimals(answer):
        return False
    target = rational(gold)
    return abs(value() - target) * 2 * 10**number.decimals <= 1


def _has_decimals(value: Expression) -> bool:
    if isinstance(value, Apply):
        return any(_has_decimals(operand) for operand in value.operands)
    return isinstance(value, Number) and value.decimals is not None
