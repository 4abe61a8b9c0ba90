import pytest

from diffpo_jax.tasks.answers import units
from diffpo_jax.tasks.answers.math_tree import NotUnderstood


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("cm", "cm"),
        ("centimeters", "cm"),
        ("inches", "in"),
        ("square inches", "in^2"),
        ("inches ^2", "in^2"),
        ("cubic feet", "ft^3"),
        ("miles per hour", "mi per h"),
        ("mi/hr", "mi per h"),
        ("mph", "mi per h"),
        ("degrees", "degree"),
        ("dollars", "dollar"),
        ("apples", "apple"),
        ("inches squared", "in^2"),
        ("cm ^{2}", "cm^2"),
        ("sq. ft.", "ft^2"),
        ("units", ""),
        ("square units", ""),
        ("m", "m"),
        ("of the apples", "apple"),
        ("L", "L"),
        ("liters", "L"),
    ],
)
def test_units_are_written_in_one_way(text, unit):
    assert units.canonical(text) == unit


@pytest.mark.parametrize(
    "text",
    ["million", "millions", "k", "dozen", "squared", "or more", "times", "halves", "cm 2", "base",
     "per", "at most",
     "quadrillion", "twentieths", "twelfths", "zillion", "tens", "lakh", "six", "square",
     "hundredths", "thirds", "%", "^2", "cm ^2 ^2"],
)  # fmt: skip
def test_words_that_change_a_number_are_no_units(text):
    with pytest.raises(NotUnderstood):
        units.canonical(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [("Evelyn", "evelyn"), (" the  East. ", "east"), ("(E)", "E"), ("E", "E"), ("e", "e")],
)
def test_words_are_compared_without_case_but_letters_with_it(text, words):
    assert units.plain_words(text) == words
