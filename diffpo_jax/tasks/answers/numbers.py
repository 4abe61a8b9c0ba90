"""Reads numbers exactly, as people write them: signs, commas, currencies, units, fractions.

    -3    −3    +3    1,234    1{,}234    18.0    .5    $18    -$5    $-5    18 dollars    50%
    1/2   \\frac{1}{2}   \\frac12   1 1/2   1\\frac{1}{2}   ½   18\\text{ cm}   18 m^2   x = 18

A percent sign is a unit like any other: 50% reads as 50, as in the gold answers of GSM8K.
Exponents (1e6, 10^6), words (eighteen, 2 million) and commas that do not separate thousands
(1,2 or 10,00) are not understood, and the digits around them are not read as one number.

No function raises, and every function takes time linear in the text, whatever the text.
"""

import re
from fractions import Fraction

LONGEST = 100  # characters of a number; longer ones are not read

_TRANSLATION = str.maketrans(
    {
        # Minus signs and dashes, also full-width and small ones.
        **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"),
        "\uff0b": "+",
        "\u2044": "/",  # fraction slash
        "\u2215": "/",  # division slash
        "\uff05": "%",
        "\xa0": " ",
        "\u2009": " ",
        "\u202f": " ",
        **{
            sign: f" {value} "
            for sign, value in {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4"}.items()
        },
    }
)

# \frac{1}{2}, \frac12, \frac{1}2: two arguments, each a plain number.
_ARGUMENT = r"(?:\{\s?(-?[0-9]++(?:\.[0-9]++)?)\s?\}|([0-9]))"
_FRACTION = re.compile(r"([0-9]?)\s?\\[dtc]?frac\s?" + _ARGUMENT + r"\s?" + _ARGUMENT)
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|\\!,(?:\\!)?|,\\!|\\,)(?=[0-9]{3})")
# Commands whose contents alone matter.
_WRAPPER = re.compile(r"\\(?:text(?:bf|rm|it)?|mathrm|mathbf|mbox|boxed|left|right|displaystyle)\b")
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad\b|[{}]|\\(?=[$%#])")
# The 2 of cm^2 and m^{2}, and degrees, which are not numbers.
_POWER_OF_UNIT = re.compile(r"(?<=[A-Za-z}])\s?\^\s?(?:[0-9]|\{[0-9]\})(?![0-9])")
_DEGREES = re.compile(r"\^\s?(?:\\circ\b|\{\s?\\circ\s?\}|°)|°|\\degree\b")

_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9,])|[0-9]++)(?:\.[0-9]++)?"
_NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z)\]}.])(?P<sign>[-+]))?"  # in 10-3 the 3 has no sign
    r"[$£€¥₹]?\s?(?P<inner>(?<![0-9A-Za-z)\]}.\s])[-+])?"  # $-5
    r"(?:(?P<mixed>[0-9]++)\s(?P<over>[0-9]++)/(?P<under>[0-9]++)"
    rf"|(?P<top>{_DECIMAL}|(?<![0-9])\.[0-9]++)"
    rf"(?:\s?/\s?(?P<bottom>{_DECIMAL}))?)"
)
# A unit of a few words, which may follow a number.  A single letter is more often a variable (5 x),
# and some words change the number (5 or more, 5 times 3).
_WORD = (
    r"(?!(?:and|for|if|is|less|minus|more|not|or|over|plus|than|times|to|when)\b)"
    r"(?:[A-Za-z][A-Za-z.]++|[ghlmsL])(?![A-Za-z])"
)
_BESIDE = r"(?:[cmk]m|[km]g|m[lL]|ft|in|lbs?|oz|hrs?|min)(?![A-Za-z])"  # 5cm, but not 5ab
_UNIT = re.compile(
    rf"(?:\s*+[%€£¥₹$]|(?:\s++{_WORD}|{_BESIDE})(?:\s?/\s?{_WORD}|\s{_WORD}){{0,3}})?\s*+\.?\s*+"
)


def read(text: str) -> Fraction | None:
    """The one number in a short answer, whatever words and units surround it, or None.

    Only the text after the last equals sign counts (8 + 10 = 18).  If several numbers remain
    (17 or 18), there is no answer.
    """
    numbers = list(_NUMBER.finditer(_clean(text.rpartition("=")[2])))
    return _value(numbers[0]) if len(numbers) == 1 else None


def read_last(text: str) -> Fraction | None:
    """The last number in a text of any length, or None."""
    numbers = list(_NUMBER.finditer(_clean(text)))
    return _value(numbers[-1]) if numbers else None


def read_exact(text: str) -> Fraction | None:
    """The number if the text is nothing but a number, or None.

    A currency, a unit, a percent sign and a closing full stop are allowed.  Unlike `read`, this
    finds no number in 2x + 1 and "about 3".
    """
    text = _clean(text).strip()
    match = _NUMBER.match(re.sub(r"^([-+])\s+", r"\1", text))
    if match is None:
        return None
    rest = match.string[match.end() :]
    return _value(match) if _UNIT.fullmatch(rest) else None


def _clean(text: str) -> str:
    """The text without the marks that LaTeX and typography add to a number."""
    text = text.translate(_TRANSLATION)
    if "\\" in text or "{" in text or "^" in text or "°" in text:
        text = _THOUSANDS.sub(lambda m: "" if m[0] == "\\," else ",", text)
        text = _FRACTION.sub(_slash, text)
        text = _DEGREES.sub(" ", text)
        text = _WRAPPER.sub(" ", text)
        text = _POWER_OF_UNIT.sub(" ", text)
        text = _SPACING.sub(" ", text)
    return text


def _slash(match: re.Match[str]) -> str:
    before, a, b, c, d = match.groups()
    top, bottom = a or b, c or d
    # With a digit before the fraction it is a mixed number: 1\frac{1}{2}.
    return f"{before} {top}/{bottom}" if before else f"{top}/{bottom}"


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > LONGEST:
        return None
    part = match.groupdict()
    top, bottom = part["top"] or part["over"], part["bottom"] or part["under"] or "1"
    divisor = Fraction(bottom.replace(",", ""))
    if not divisor:
        return None
    value = Fraction(part["mixed"] or 0) + Fraction(top.replace(",", "")) / divisor
    return -value if "-" in (part["sign"], part["inner"]) else value
