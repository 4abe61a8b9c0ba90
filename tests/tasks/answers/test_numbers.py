from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffpo_jax.tasks.answers import numbers

# Texts that are nothing but a number.
NUMBERS = {
    "18": 18,
    "+18": 18,
    "-3": -3,
    "(-3)": -3,
    "-(3)": -3,
    "- $5": -5,
    r"-\$5": -5,
    r"-\text{5}": -5,
    r"\text{-}5": -5,
    "-{5}": -5,
    r"-\,5": -5,
    "—5": -5,
    "-£5": -5,
    r"-\frac{1}{2}": Fraction(-1, 2),
    "negative 5": -5,
    "minus $5": -5,
    "Negative 5 dollars": -5,
    "3 million": 3_000_000,
    "3 Million dollars": 3_000_000,
    "3k": 3000,
    "$3M": 3_000_000,
    "$3m": 3_000_000,
    "$1.5 billion": 1_500_000_000,
    "3B": 3_000_000_000,
    "2 dozen": 24,
    "3 hundred thousand": 300_000,
    "3m": 3,
    "5th": 5,
    "5pm": 5,
    "\u22123": -3,
    "- 3": -3,
    "1,234": 1234,
    "1,234,567.5": Fraction(2469135, 2),
    "1{,}234": 1234,
    r"1\!,\!234": 1234,
    r"10\,000": 10_000,
    "18.0": 18,
    "18.": 18,
    ".5": Fraction(1, 2),
    "$18": 18,
    r"\$18": 18,
    "-$5": -5,
    "$-5": -5,
    "€5": 5,
    "5 €": 5,
    "18 dollars": 18,
    "18 square meters per hour": 18,
    "18cm": 18,
    "18 m": 18,
    "18 km/h": 18,
    "18 m^2": 18,
    r"18\text{ cm}": 18,
    r"18\,\text{cm}^2": 18,
    r"18^\circ": 18,
    "50%": 50,
    "50 %": 50,
    r"50\%": 50,
    "1/2": Fraction(1, 2),
    "6 / 4": Fraction(3, 2),
    "-1/2": Fraction(-1, 2),
    "1.5/0.5": 3,
    r"\frac{1}{2}": Fraction(1, 2),
    r"\dfrac12": Fraction(1, 2),
    r"-\frac{3}{4}": Fraction(-3, 4),
    "1 1/2": Fraction(3, 2),
    "-1 1/2": Fraction(-3, 2),
    r"1\frac{1}{2}": Fraction(3, 2),
    "½": Fraction(1, 2),
    "2½": Fraction(5, 2),
    r"\boxed{18}": 18,
}


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_every_function_reads_a_plain_number(text, value):
    assert numbers.read(text) == value
    assert numbers.read_last(text) == value


@pytest.mark.parametrize(
    ("text", "only", "last"),
    [
        ("", None, None),
        ("none", None, None),
        ("x = 18", 18, 18),
        ("8 + 10 = 18", 18, 18),
        ("The answer is 18.", 18, 18),
        ("$18 per day", 18, 18),
        ("17 or 18", None, 18),
        ("18, no: 17", None, 17),
        ("about 3", 3, 3),
        ("The answer is -5.", -5, -5),
        ("The answer is —$5", -5, -5),
        ("answer - 5", 5, 5),  # a dash after a word
        ("A: -5", -5, -5),
        ("10-3", None, 3),  # a difference: the 3 has no sign
        ("10 - 3", None, 3),
        ("10 -3", None, -3),
        ("--5", None, None),
        ("±5", None, None),
        ("1,2", None, None),
        ("1, 2", None, 2),
        ("10,00", None, None),
        ("1,234,5678", None, None),
        ("2x", None, None),
        ("v2", None, None),
        (r"5\pi", None, None),
        (r"\frac{2}{3}\pi", None, None),
        (r"\sqrt{2}", None, None),
        (r"2\sqrt{3}", None, None),
        (r"x = \sqrt{2}", None, None),
        ("10^6", None, None),
        ("10²", None, None),
        ("1e6", None, None),
        ("5!", None, 5),
        ("2/3/4", None, None),
        ("5 squared", None, None),
        ("half of 10", None, None),
        ("3 and a half", None, None),
        ("2 thirds", None, None),
        ("5 hundredths", None, None),
        ("twice 5", None, None),
        ("not 5", None, None),
        (r"0.\overline{3}", None, None),
        ("5 quarters", 5, 5),  # coins
        ("1/0", None, None),
        ("1 1/0", None, None),
        ("9" * 101, None, None),
        ("9" * 100, int("9" * 100), int("9" * 100)),
        ("\u0661\u0662", None, None),  # digits other than 0-9
    ],
)
def test_numbers_among_words(text, only, last):
    assert numbers.read(text) == only
    assert numbers.read_last(text) == last


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is **18**.", 18),
        ("**Answer:** 18", 18),
        ("*18*", 18),
        ("__18__", 18),
        ("**-5**", -5),
        ("That is it.\n18", 18),
        ("He has 5 apples.\n\n$18", 18),
        ("That is it. 18", 18),
        ("Step 3. 18", 18),
        ("1. 18", 18),
        ("No. 18", 18),
        ("Rs. 18", 18),
        (r"\[ \boxed{18} \]", 18),
        (r"18\]", 18),
        (r"\(18\) dollars", 18),
        ("\u20155", -5),
        ("\ufe585", -5),
        ("\u207b5", -5),
        ("\u27965", -5),
        ("-USD 5", -5),
        ("5π", None),
        ("5 pi", None),
        ("sqrt(5)", None),
        ("sqrt 5", None),
        ("log 5", None),
        ("f(5)", None),
        ("5 x", None),
        ("<5", None),
        ("≤5", None),
        ("5+", None),
        ("3 million%", None),
        ("5 quadrillion", None),
        ("5 twelfths", None),
        ("5 doubled", None),
        ("$18/hour", 18),
        ("18 / hour", 18),
        ("...18", 18),
        ("So it is...18", 18),
        ("18 times", 18),
        ("7 times", 7),
        ("5 minus 18", 18),
        ("minus 18", -18),
        ("at 18:00", None),
        ("5 a day", 5),
        ("5 p.m.", 5),
        ("5 apples", 5),
        ("18 m", 18),
        ("18 L", 18),
        ("= 18", 18),
        ("3 * 5", None),
    ],
)
def test_the_last_number_of_a_text(text, value):
    assert numbers.read_last(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18 ≈ 18.2", 18),
        ("<5", None),
        ("5 x", None),
        ("2 score", None),
        ("5 grand", None),
        ("5 lakh", None),
        ("5 e", None),
        ("5 y", None),
        ("−5", -5),
        ("5 minus 18", None),
        ("The answer is **18**.", 18),
    ],
)
def test_the_one_number_of_an_answer(text, value):
    assert numbers.read(text) == value


@given(
    st.fractions(), st.sampled_from(["{}", "${}", "{} dollars", "{}%", " {} ", r"{}\text{{ m}}"])
)
def test_fractions_are_read_back(value, form):
    text = form.format(value)
    assert numbers.read(text) == numbers.read_last(text) == value


@given(st.integers(), st.integers(0, 5))
def test_commas_and_zeros_change_nothing(value, zeros):
    text = f"{value:,}" + ("." + "0" * zeros if zeros else "")
    assert numbers.read(text) == value


PIECES = ["9", "1", ",", ".", "/", " ", "-", "$", "%", "=", "^", "{", "}", "\\frac", "\\text", "½"]


@given(st.text() | st.lists(st.sampled_from([*PIECES, "{,}", "1,234", "cm", "\n"])).map("".join))
@example("9" * 5000)
@example("1/" * 2500)
@example("1 1/" * 1000)
@example("\\frac{1" * 700)
@example("$" * 5000)
@example("5 " + "a" * 5000)
@example("1" + " " * 5000 + "/")
@example("-" * 5000 + "1")
@example("1 million" * 900)
@example("half of " * 900 + "1")
def test_any_text_gives_a_number_or_none(text):
    for function in (numbers.read, numbers.read_last):
        assert isinstance(function(text), Fraction | None)
