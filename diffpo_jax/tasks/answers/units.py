"""Units of quantities, and words beside numbers that change them.

Two quantities agree only if their units do; a unit may be left out (`math_equality`).  Any noun is
a unit (5 apples), but not a word that changes the number: 5 squared, 5 or more.
"""

import re

from diffpo_jax.tasks.answers.math_tree import NotUnderstood

DOLLAR, DEGREE, PERCENT = "dollar", "degree", "percent"

# Factors that are written after a number.
SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "k": 10**3, "mil": 10**6, "mn": 10**6, "bn": 10**9,
}  # fmt: skip
# Words that multiply or divide a number in another way, or make it another one.
MULTIPLES = (
    r"squared|cubed|factorial|doubled|tripled|halved|hal(?:f|ves)|thirds?|fourths?|fifths?|sixths?|"
    r"sevenths?|eighths?|ninths?|tenths?|elevenths?|twel[fv]ths?|[a-z]+teenths?|[a-z]+tieths?|"
    r"hundredths?|thousandths?|[a-z]+illionths?|(?!million|billion|trillion)[a-z]+illions?|"
    r"lakhs?|crores?|grand|gross|scores?|tens"
)
_MULTIPLE = re.compile(MULTIPLES, re.IGNORECASE)
# Words that say something else about a number than what it counts.
_OTHERS = {
    "and", "or", "not", "no", "none", "plus", "minus", "times", "over", "under", "above", "below",
    "less", "more", "than", "at", "most", "least", "if", "is", "to", "by", "for", "when", "mod",
    "modulo", "base", "root", "twice", "double", "triple", "quarter", "quarters", "power", "pair",
    "pairs", "negative", "positive", "infinity", "about", "approximately", "point", "with",
    "without", "remainder", "except", "unless", "wrong", "false", "true", "but", "zero", "one",
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
    "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
}  # fmt: skip

_SAME = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm", "meter": "m",
    "metre": "m", "kilometer": "km", "kilometre": "km", "inch": "in", "inches": "in", "foot": "ft",
    "feet": "ft", "yard": "yd", "mile": "mi", "gram": "g", "kilogram": "kg", "pound": "lb",
    "ounce": "oz", "liter": "L", "litre": "L", "l": "L", "milliliter": "mL", "millilitre": "mL",
    "ml": "mL", "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "day": "day",
    "week": "week", "month": "month", "year": "year", "cent": "cent", "deg": DEGREE, "usd": DOLLAR,
    "percentage": PERCENT, "mph": "mi per h", "kph": "km per h", "people": "person",
}  # fmt: skip
_KNOWN = {*_SAME, *_SAME.values(), DOLLAR, DEGREE, PERCENT}
LETTERS = {"m", "s", "g", "h", "L", "N", "V", "J", "W"}  # units of one letter, in \text{...}
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cu": "^3", "cubed": "^3"}
_WORD = re.compile(r"[A-Za-z]+|\^\{?[0-9]\}?|/|[.\s,~\\-]")


def is_known(word: str) -> bool:
    """Whether a word is a unit that may stand beside a number without \\text{...}."""
    return len(word) > 1 and _singular(word) in _KNOWN


def is_scale(word: str) -> bool:
    """Whether a word is a factor: million, millions."""
    return word.lower().removesuffix("s") in SCALES


def plain_words(text: str) -> str:
    """Words as they are compared: single spaces, no article or closing stop, small letters.

    One letter keeps its case: the choice (A), or a name in mathematics.
    """
    text = " ".join(text.replace("\\ ", " ").replace("~", " ").split()).strip(" .,")
    if match := re.fullmatch(r"\(\s*([A-Za-z])\s*\)", text):
        text = match[1]
    if len(text) == 1:
        return text
    return re.sub(r"^(?:the|an?) (?=[a-z]{2})", "", text.lower())


def canonical(text: str) -> str:
    """A unit as it is compared: "square inches" and "in ^2" are "in^2"; "units" are none, "".

    Raises `NotUnderstood` if it is no unit: it has a digit, or a word that changes the number.
    """
    pieces, place = [], 0
    while place < len(text):
        match = _WORD.match(text, place)
        if match is None:
            raise NotUnderstood(f"{text!r} is not a unit")
        if match[0].strip(" .,~\\-\n\t"):
            pieces.append(match[0].replace("{", "").replace("}", ""))
        place = match.end()
    words: list[str] = []
    power = ""
    for piece in pieces:
        small = piece.lower()
        raises = piece.startswith("^") or small in ("squared", "cubed")
        if raises and words and words[-1] != "per" and not words[-1][-1:].isdigit():
            words[-1] += _POWERS.get(small, piece)
        elif raises or small in _OTHERS or _MULTIPLE.fullmatch(small) or is_scale(small):
            raise NotUnderstood(f"{piece!r} changes a number")
        elif small in _POWERS:
            power = _POWERS[small]
        elif small in ("per", "/"):
            words.append("per")
        elif small not in ("of", "the", "a", "an"):
            words.append(_singular(piece) + power)
            power = ""
    if words[-1:] == ["per"] or power:
        raise NotUnderstood(f"{text!r} is not a unit")
    return "" if re.fullmatch(r"unit(?:\^[0-9])?", " ".join(words)) else " ".join(words)


def _singular(word: str) -> str:
    if word in _SAME.values():
        return word
    small = word.lower()
    single = small[:-1] if small.endswith("s") and not small.endswith("us") else small
    single = single if len(single) > 1 else small
    return _SAME.get(small) or _SAME.get(single, single)
