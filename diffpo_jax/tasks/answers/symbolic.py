"""Equality of expressions by algebra, with sympy.  It may never return: only workers run it.

It is a module of its own because sympy takes seconds to import: workers import it before their
time limit starts, and the main process never does.
"""

import contextlib
from fractions import Fraction

import sympy

from diffpo_jax.tasks.answers import exact, latex, math_equality
from diffpo_jax.tasks.answers.math_tree import Expression, Name, NotUnderstood, Number

_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infty": sympy.oo}
_POINTS = ((3, 7), (11, 13), (-5, 17))  # numerators and denominators of trial values
_DIGITS = 40
_LARGEST_FACTORIAL = 1000  # the number whose factorial is computed


def equal(gold: str, answer: str) -> bool:
    """Whether two LaTeX answers are equal (`math_equality.equal`)."""
    return math_equality.equal(*latex.read_both(gold, answer), Algebra())


class Algebra:
    """Compares expressions by sympy; letters are real numbers."""

    def same(self, gold: Expression, answer: Expression) -> bool:
        """See `exact.Algebra`."""
        with contextlib.suppress(exact.Undecided):
            return exact.Exact().same(gold, answer)
        a, b = to_sympy(gold), to_sympy(answer)
        if a == b or is_zero(a - b):
            return True
        if b.free_symbols or b.is_real is False or b.is_finite is False:
            return False
        digits = Fraction(str(sympy.N(b, _DIGITS))) if sympy.N(b).is_Float else None
        return digits is not None and exact.rounds_to(gold, answer, lambda: digits)

    def proportional(self, gold: Expression, answer: Expression, positive: bool) -> bool:
        """See `exact.Algebra`."""
        a, b = to_sympy(gold), to_sympy(answer)
        if not a.free_symbols or not b.free_symbols:
            return a == b
        ratio = sympy.cancel(sympy.together(sympy.expand(a) / sympy.expand(b)))
        if ratio.free_symbols:
            ratio = sympy.simplify(ratio)
        if ratio.free_symbols or ratio in (0, sympy.nan, sympy.zoo):
            return False
        return bool(ratio.is_positive) if positive else True


def is_zero(difference: sympy.Expr) -> bool:
    """Whether an expression is 0, by proof: trial values only refute it."""
    if difference in (sympy.nan, sympy.zoo) or difference.has(sympy.oo, sympy.zoo, sympy.nan):
        return False
    if difference.is_Rational:
        return bool(difference == 0)
    if _is_refuted(difference):
        return False
    if sympy.expand(difference) == 0 or sympy.simplify(difference) == 0:
        return True
    return difference.equals(0) is True


def _is_refuted(difference: sympy.Expr) -> bool:
    """Whether the expression is plainly not 0 at one of a few trial values."""
    symbols = sorted(difference.free_symbols, key=str)
    for top, bottom in _POINTS if symbols else _POINTS[:1]:
        values = {
            symbol: sympy.Rational(top + 2 * place, bottom + place)
            for place, symbol in enumerate(symbols)
        }
        value = sympy.N(difference.subs(values), 30, chop=False)
        if value.is_number and value.is_finite and abs(value) > sympy.Float("1e-12"):
            return True
    return False


def to_sympy(value: Expression) -> sympy.Expr:
    """The expression in sympy."""
    if isinstance(value, Number):
        return sympy.Rational(value.value.numerator, value.value.denominator)
    if isinstance(value, Name):
        return _CONSTANTS.get(value.name) or sympy.Symbol(value.name, real=True)
    operands = [to_sympy(operand) for operand in value.operands]
    first, last = operands[0], operands[-1]
    match value.function:
        case "pm":
            raise NotUnderstood("a plus-minus in an equation")
        case "+":
            return sympy.Add(*operands)
        case "-":
            return -first
        case "*":
            return sympy.Mul(*operands)
        case "/":
            return first / last
        case "^":
            if first.is_Rational and last.is_Rational:
                base, exponent = (Fraction(int(n.p), int(n.q)) for n in (first, last))
                if base not in (0, 1, -1) and not exact.is_small_power(base, exponent):
                    raise NotUnderstood("a power too large to compute")
            return first**last
        case "root":
            real = first.is_number and first.is_negative and last.is_integer and last.is_odd
            return -((-first) ** (1 / last)) if real else first ** (1 / last)
        case "!" | "binom" if first.is_number and abs(first) > _LARGEST_FACTORIAL:
            raise NotUnderstood("a factorial too large to compute")
        case "!":
            return sympy.factorial(first)
        case "abs":
            return sympy.Abs(first)
        case "ln":
            return sympy.log(first)
        case "log":
            return sympy.log(first) / sympy.log(last if len(operands) > 1 else 10)
        case "arcsin" | "arccos" | "arctan":
            return getattr(sympy, value.function.replace("arc", "a"))(first)
    return getattr(sympy, {"binom": "binomial"}.get(value.function, value.function))(*operands)


is_zero(sympy.sqrt(8) - 2 * sympy.sqrt(2))  # the first takes seconds, no part of an answer's time
