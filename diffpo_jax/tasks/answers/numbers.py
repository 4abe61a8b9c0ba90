"""Numbers as people write them, read exactly: signs, commas, currencies, units, fractions.

    -3    −3    +3    1,234    1{,}234    18.0    .5    $18    -$5    $-5    18 dollars    50%
    1/2   \\frac{1}{2}   \\frac12   1 1/2   1\\frac{1}{2}   ½   18\\text{ cm}   18 m^2   x = 18

A percent sign is a unit like any other: 50% reads as 50, as in the gold answers of GSM8K.
Exponents (1e6, 10^6), words (eighteen, 2 million) and commas that do not part thousands
(1,2 or 10,00) make no number of what stands around them.

Every function takes any text, never raises, and needs time linear in the text's length.
"""

import re
from fractions import Fraction

LONGEST = 100  # characters of a number; what is longer is not read as one

_TRANSLATION = str.maketrans(
    {
        # Minus signs and dashes; full-width and small ones too.
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
# Wrappers that say nothing about the number, but for their contents.
_WRAPPER = re.compile(r"\\(?:text(?:bf|rm|it)?|mathrm|mathbf|mbox|boxed|left|right|displaystyle)\b")
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad\b|[{}]|\\(?=[$%#])")
# The 2 of cm^2 and m^{2}, and degrees: not numbers of their own.
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
# What may follow the number where a text is nothing but one: a unit of a few words.  One letter
# is more often a variable (5 x), and some words make another number of it (5 or more, 5 times 3).
_WORD = (
    r"(?!(?:and|for|if|is|less|minus|more|not|or|over|plus|than|times|to|when)\b)"
    r"(?:[A-Za-z][A-Za-z.]++|[ghlmsL])(?![A-Za-z])"
)
_BESIDE = r"(?:[cmk]m|[km]g|m[lL]|ft|in|lbs?|oz|hrs?|min)(?![A-Za-z])"  # 5cm, but not 5ab
_UNIT = re.compile(
    rf"(?:\s*+[%€£¥₹$]|(?:\s++{_WORD}|{_BESIDE})(?:\s?/\s?{_WORD}|\s{_WORD}){{0,3}})?\s*+\.?\s*+"
)


def read(text: str) -> Fraction | None:
    """The one number that a short answer states, whatever words and units surround it.

    Where there are several, the one after the last equals sign counts: 8 + 10 = 18.  None
    where there is none, or still several (17 or 18): that is no answer.
    """
    numbers = _find(_clean(text.rpartition("=")[2]))
    return _value(numbers[0]) if len(numbers) == 1 else None


def last(text: str) -> Fraction | None:
    """The last number of a text of any length, None where there is none."""
    numbers = _find(_clean(text))
    return _value(numbers[-1]) if numbers else None


def exact(text: str) -> Fraction | None:
    """The number that a text is: nothing else may stand there but a currency, a unit, a percent
    sign, a closing full stop.  Unlike `read`, 2x + 1 and "about 3" are none."""
    text = _clean(text).strip()
    match = _NUMBER.match(re.sub(r"^([-+])\s+", r"\1", text))
    if match is None:
        return None
    rest = match.string[match.end() :]
    return _value(match) if _UNIT.fullmatch(rest) else None


def _find(text: str) -> list[re.Match[str]]:
    return list(_NUMBER.finditer(text))


def _clean(text: str) -> str:
    """The text without what LaTeX and typography add to a number."""
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
    # A digit before it makes a mixed number: 1\frac{1}{2}.
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
