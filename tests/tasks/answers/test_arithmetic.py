"""The safe evaluator against Python's own, on expressions that are safe by construction."""

import warnings
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diffpo_jax.tasks.answers import arithmetic
from diffpo_jax.tasks.answers.arithmetic import ExpressionError


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("3*(5-2)", 9, (3, 5, 2)),
        ("7", 7, (7,)),
        ("1+2*3", 7, (1, 2, 3)),
        ("8-3-2", 3, (8, 3, 2)),
        ("8/4/2", 1, (8, 4, 2)),
        ("1/3+1/3+1/3", 1, (1, 3, 1, 3, 1, 3)),  # exactly
        ("-3+5", 2, (3, 5)),
        ("2--3", 5, (2, 3)),
        ("2*-3", -6, (2, 3)),
        ("-(2+3)", -5, (2, 3)),
        ("((((1))))", 1, (1,)),
        (" 1 +\n2\t", 3, (1, 2)),
        ("007+1", 8, (7, 1)),
        ("3 × 4 ÷ 2 − 1", 5, (3, 4, 2, 1)),
        ("2·3⋅4", 24, (2, 3, 4)),
        (r"\frac{6}{2}\times3", 9, (6, 2, 3)),
        (r"\frac62", 3, (6, 2)),
        (r"\dfrac{8}{\frac{6}{3}}", 4, (8, 6, 3)),
        (r"2+\frac{ 1 + 5 }{3}\,", 4, (2, 1, 5, 3)),
        ("[3*{5-2}]", 9, (3, 5, 2)),
        (r"\left(3+1\right) \times 6 \div 2 \cdot 5", 60, (3, 1, 6, 2, 5)),
    ],
)
def test_values_by_hand(text, value, numbers):
    assert arithmetic.evaluate(text) == (value, numbers)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8**(3-2)", r"'\*\*' is not allowed"),
        ("99**99**99", r"'\*\*' is not allowed"),
        ("7//2", "'//' is not allowed"),
        ("2^3", r"'\^' is not allowed"),
        ("1.5", r"'\.' is not allowed"),
        ("1,000", "',' is not allowed"),
        ("1+1=2", "'=' is not allowed"),
        ("x", "'x' is not allowed"),
        (r"\frac{1}{", "a brace is not closed"),
        (r"\frac", "'.*frac' is not allowed"),
        (r"\frac{1}x", "a fraction without a number"),
        (r"\frac{1}{0}", "division by zero"),
        (r"\sqrt{4}", "'.*sqrt' is not allowed"),
        ("{1", "not closed"),
        ("٣", "is not allowed"),  # a digit, but not one of 0-9
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("1 2", "two numbers"),
        ("2(3)", "a bracket with no operator before it"),
        ("(2)(3)", "a bracket with no operator before it"),
        ("(1)2", "two numbers"),
        ("1+", "ends where a number should be"),
        ("*1", r"'\*' where a number should be"),
        ("1+*2", r"'\*' where a number should be"),
        ("()", "closes where a number should be"),
        ("(1", "not closed"),
        ("1)", "not opened"),
        ("1/0", "division by zero"),
        ("1/(2-2)", "division by zero"),
        ("(" * 40 + "1" + ")" * 40, "deeper than 32"),
        ("-" * 40 + "1", "deeper than 32"),
        ("(" * 10**6, "1000000 characters: more than 400"),
        ("9" * 13, "a number of 13 digits"),
    ],
)
def test_texts_that_are_not_expressions(text, reason):
    with pytest.raises(ExpressionError, match=reason):
        arithmetic.evaluate(text)


class Tree:
    """An expression as text, and the same with fractions for Python to evaluate."""

    def __init__(self, text, python):
        self.text, self.python = text, python


def trees():
    blank = st.sampled_from(["", " "])
    leaves = st.integers(0, 99).map(lambda n: Tree(str(n), f"Fraction({n})"))

    def join(left, sign, right, space):
        written = left.text + space + sign + space + right.text
        return Tree(written, left.python + sign + right.python)

    def grow(children):
        return st.one_of(
            st.builds(join, children, st.sampled_from("+-*/"), children, blank),
            children.map(lambda t: Tree(f"({t.text})", f"({t.python})")),
            children.map(lambda t: Tree(f"-{t.text}", f"-{t.python}")),
        )

    return st.recursive(leaves, grow, max_leaves=12)


@given(trees())
def test_evaluate_equals_python_on_fractions(tree):
    try:
        expected = eval(tree.python, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ExpressionError, match="division by zero"):
            arithmetic.evaluate(tree.text)
        return
    found = arithmetic.evaluate(tree.text)
    assert found.value == expected
    assert [f"Fraction({n})" for n in found.numbers] == _fractions(tree.python)


def _fractions(python):
    return [piece[: piece.index(")") + 1] for piece in _split(python)]


def _split(python):
    return ["Fraction" + piece for piece in python.split("Fraction")[1:]]


@given(st.text(max_size=60) | st.text("0123456789+-*/()×÷−·. \\", max_size=60))
def test_any_text_has_a_value_or_an_error(text):
    try:
        assert isinstance(arithmetic.evaluate(text).value, Fraction)
    except ExpressionError as error:
        assert str(error)


def eval_python(text):
    """The number that Python makes of a text; None if that is an error, a tuple or an Ellipsis."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = eval(text.strip(), {"__builtins__": None}, {})
    except Exception:
        return None
    return value if isinstance(value, (int, float, complex)) else None


@pytest.mark.parametrize(
    "text",
    ["8**(3-2)", "2**3**2", "-2**2", "2**-1*3", "2**-1**2", "7//2", "-7//2.", "1/3", "1.5*2",
     ".5+1.", "012", "00", "01.5", "1 2", "1\n+2", "(1\n+2)", "(-8)**.5", "0**-1", "1.2.3",
     "3(4)", "()", "3*()", "+-+1", "٣", "1\xa0+2", "2**0.5", "1/0", "(1", "1)", "1**99999",
     "(-1)**99999", "...", "(...)", ""],
)  # fmt: skip
def test_python_value_equals_python(text):
    assert repr(arithmetic.python_value(text)) == repr(eval_python(text))


@given(st.text("0123+-*/(). \n", max_size=10))
def test_python_value_equals_python_on_any_text(text):
    assume(text.count("**") < 2)
    expected = eval_python(text)
    found = arithmetic.python_value(text)
    if found is None and isinstance(expected, int):
        assert expected.bit_length() > 4000
    else:
        assert repr(found) == repr(expected)


@pytest.mark.parametrize("text", ["99**99**99", "9" * 2000, "(" * 300 + "1" + ")" * 300, "2**4097"])
def test_values_beyond_the_bounds_are_not_computed(text):
    assert arithmetic.python_value(text) is None
