"""Arithmetic expressions as they are built up: for puzzles, and for their solutions."""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

SIGNS = "+-*/"


class Expression(NamedTuple):
    """An expression with no more brackets than it needs."""

    value: Fraction
    text: str
    binding: int  # of its outermost operator: 1 of + and -, 2 of * and /, 3 of a number


def number(value: int) -> Expression:
    """A number, not negative."""
    return Expression(Fraction(value), str(value), 3)


def combine(left: Expression, sign: str, right: Expression) -> Expression | None:
    """One expression of two; None where it would divide by zero."""
    a, b = left.value, right.value
    if sign in "+-":
        value, binding = (a + b if sign == "+" else a - b), 1
    elif sign == "*":
        value, binding = a * b, 2
    elif not b:
        return None
    else:
        value, binding = a / b, 2
    first = f"({left.text})" if left.binding < binding else left.text
    # What follows a minus or a division keeps its brackets: 8-(3-2), 8/(4/2).
    bare = right.binding > binding or (right.binding == binding and sign in "+*")
    second = right.text if bare else f"({right.text})"
    return Expression(value, first + sign + second, binding)


def draw(numbers: Sequence[int], picks: Sequence[Sequence[float]]) -> Expression | None:
    """An expression that uses every number once; None where it divides by zero.

    Two of what there is, in either order, and a sign are picked and combined until one is left.

    Args:
      picks: [numbers - 1, 3], in [0, 1): which is the left one, which of the others the right
        one, which sign.
    """
    parts = [number(n) for n in numbers]
    for left, right, sign in picks:
        first = parts.pop(int(left * len(parts)))
        second = parts.pop(int(right * len(parts)))
        both = combine(first, SIGNS[int(sign * len(SIGNS))], second)
        if both is None:
            return None
        parts.append(both)
    return parts[0]


def solve(numbers: Sequence[int], target: int) -> str | None:
    """An expression that uses every number once and gives the target; None if there is none.

    The first in a fixed order.  Three numbers take up to a millisecond, four up to some fifty;
    six may take minutes where there is no solution.
    """
    found = _search([number(n) for n in numbers], target)
    return found.text if found else None


def _search(parts: list[Expression], target: int) -> Expression | None:
    if len(parts) == 1:
        return parts[0] if parts[0].value == target else None
    for i, j in itertools.permutations(range(len(parts)), 2):
        rest = [part for k, part in enumerate(parts) if k not in (i, j)]
        for sign in SIGNS:
            if i > j and sign in "+*":
                continue  # the same the other way round
            both = combine(parts[i], sign, parts[j])
            found = both and _search([both, *rest], target)
            if found:
                return found
    return None
