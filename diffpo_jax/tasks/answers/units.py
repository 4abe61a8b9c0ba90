"""Units of quantities, and words beside numbers that change them.

Two quantities agree only if their units do; a unit may be left out (`math_equality`).  Any noun is
a unit (5 apples), but not a word that changes the number: 5 million, 5 squared, 5 or more.
"""

import re

from diffpo_jax.tasks.answers.math_tree import NotUnderstood

DOLLAR, DEGREE, PERCENT = "dollar", "degree", "percent"

# Factors that are written after a number.
SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "k": 10**3, "mil": 10**6, "mn": 10**6, "bn": 10**9,
}  # fmt: skip
# Words that change a number in another way.
CHANGING = {
    "and", "or", "not", "plus", "minus", "times", "over", "less", "more", "than", "if", "is",
    "to", "by", "for", "when", "mod", "modulo", "base", "squared", "cubed", "factorial",
    "root", "half", "halves", "twice", "double", "triple", "third", "thirds", "quarter",
    "quarters", "fourth", "fourths", "fifth", "fifths", "sixth", "sixths", "seventh",
    "sevenths", "eighth", "eighths", "ninth", "ninths", "tenth", "tenths", "hundredth",
    "hundredths", "thousandth", "thousandths", "millionth", "millionths", "power", "score",
    "pairs", "pair", "gross", "negative", "infinity", "about", "approximately", "point",
}  # fmt: skip

_SAME = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm", "meter": "m",
    "metre": "m", "kilometer": "km", "kilometre": "km", "inch": "in", "inche": "in", "foot": "ft",
    "feet": "ft", "yard": "yd", "mile": "mi", "gram": "g", "kilogram": "kg", "pound": "lb",
    "ounce": "oz", "liter": "L", "litre": "L", "l": "L", "milliliter": "mL", "millilitre": "mL",
    "ml": "mL", "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "day": "day",
    "week": "week", "month": "month", "year": "year", "cent": "cent", "deg": DEGREE, "usd": DOLLAR,
    "unit": "unit", "percentage": PERCENT, "mph": "mi per h", "kph": "km per h",
}  # fmt: skip
_KNOWN = {*_SAME, *_SAME.values(), DOLLAR, DEGREE, PERCENT}
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
_WORD = re.compile(r"[A-Za-z]+|\^[0-9]|/|[.\s{}\\,-]|[0-9]")


def is_known(word: str) -> bool:
    """Whether a word is a unit that may stand beside a number without \\text{...}."""
    return len(word) > 1 and _singular(word) in _KNOWN


def plain_words(text: str) -> str:
    """Words as they are compared: single spaces, no closing stop, small letters.

    One letter keeps its case: the choice (A), or a name in mathematics.
    """
    text = " ".join(text.replace("\\ ", " ").replace("~", " ").split()).strip(" .,")
    if match := re.fullmatch(r"\(\s*([A-Za-z])\s*\)", text):
        text = match[1]
    return text if len(text) == 1 else text.lower()


def canonical(text: str) -> str:
    """A unit as it is compared: "square inches" and "in ^2" are "in^2".

    Raises `NotUnderstood` if it is no unit: it has a digit, or a word that changes the number.
    """
    pieces, place = [], 0
    while place < len(text):
        match = _WORD.match(text, place)
        if match is None or match[0].isdigit():
            raise NotUnderstood(f"{text!r} is not a unit")
        if match[0].strip(" .{}\\,-"):
            pieces.append(match[0])
        place = match.end()
    words: list[str] = []
    power = ""
    for piece in pieces:
        small = piece.lower()
        if small in SCALES or small.rstrip("s") in SCALES or small in CHANGING:
            raise NotUnderstood(f"{piece!r} changes a number")
        if small in _POWERS:
            power = _POWERS[small]
        elif piece.startswith("^"):
            if not words or words[-1][-1:].isdigit():
                raise NotUnderstood(f"{text!r} is not a unit")
            words[-1] += piece
        elif small in ("per", "/"):
            words.append("per")
        elif small not in ("of", "the", "a", "an"):
            words.append(_singular(piece) + power)
            power = ""
    return " ".join(words)


def _singular(word: str) -> str:
    if word in _SAME.values():
        return word
    small = word.lower()
    single = small[:-1] if small.endswith("s") and len(small) > 2 else small
    return _SAME.get(single, _SAME.get(small, single))
