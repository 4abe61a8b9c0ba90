"""Builds arithmetic expressions: random ones for puzzles, and solutions of puzzles."""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

SIGNS = "+-*/"


class Expression(NamedTuple):
    """An expression without unnecessary brackets."""

    value: Fraction
    text: str
    binding: int  # outermost operator: 1 for + and -, 2 for * and /, 3 for a single number


def number(value: int) -> Expression:
    """A number that is not negative, as an expression."""
    return Expression(Fraction(value), str(value), 3)


def combine(left: Expression, sign: str, right: Expression) -> Expression | None:
    """Combines two expressions, or returns None if that divides by zero."""
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
    # After a minus or a division, equal binding needs brackets: 8-(3-2), 8/(4/2).
    bare = right.binding > binding or (right.binding == binding and sign in "+*")
    second = right.text if bare else f"({right.text})"
    return Expression(value, first + sign + second, binding)


def draw(numbers: Sequence[int], picks: Sequence[Sequence[float]]) -> Expression | None:
    """An expression that uses every number once, or None if it divides by zero.

    Two parts, in either order, and a sign are picked and combined until one part is left.

    Args:
      picks: [numbers - 1, 3], in [0, 1): the choice of the left part, of the right part among
        the others, and of the sign.
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
    """The first expression in a fixed order that uses every number once and gives the target.

    None if there is none.  Three numbers take up to a millisecond, four up to about fifty; six
    may take minutes if there is no solution.
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
                continue  # the same as with i and j exchanged
            both = combine(parts[i], sign, parts[j])
            found = both and _search([both, *rest], target)
            if found:
                return found
    return None
