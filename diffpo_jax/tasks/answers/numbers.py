"""Reads numbers exactly, as people write them: signs, commas, currencies, units, fractions.

    -3    −3    —3    - $5    -(5)    negative 5    1,234    1{,}234    18.0    .5    $18    50%
    1/2   \\frac{1}{2}   1 1/2   1\\frac{1}{2}   ½   18\\text{ cm}   18 m^2   x = 18
    3 million    $3M    3k    2 dozen

A percent sign is a unit like any other: 50% reads as 50, as in the gold answers of GSM8K.

A number that something changes is not read as if that were not there: 2x, 5\\pi, \\sqrt{2}, 10^6,
1e6, 2/3/4, 5 squared, half of 10, 3 and a half, ±5, or commas that do not separate thousands.

No function raises, and every function takes time linear in the text, whatever the text.
"""

import re
import unicodedata
from fractions import Fraction

from diffpo_jax.tasks.answers import characters, dress, units

LONGEST = 100  # characters of a number; longer ones are not read

_GONE = "\0"  # in place of dress inside the text: digits around it do not join

_TRANSLATION = str.maketrans(
    characters.SIGNS
    | {_GONE: " "}
    | {sign: f" {top}/{bottom} " for sign, (top, bottom) in characters.FRACTIONS.items()}
    | {sign: f"^{digit}" for sign, digit in characters.SUPERSCRIPTS.items()}
)

# \frac{1}{2}, \frac12, \frac{1}2: two arguments, each a plain number.
_ARGUMENT = r"(?:\{\s?(-?[0-9]++(?:\.[0-9]++)?)\s?\}|([0-9]))"
_FRACTION = re.compile(r"([0-9]?)\s?\\[dtc]?frac\s?" + _ARGUMENT + r"\s?" + _ARGUMENT)
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|\\!,(?:\\!)?|,\\!|\\,)(?=[0-9]{3})")
# Commands whose contents alone matter.
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|rm|it)?|mathrm|mathbf|mbox|boxed|left|right|displaystyle)(?![A-Za-z])"
)
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad(?![A-Za-z])|\\[()\[\]]|~")
# Marks of emphasis, but not the star of 3 * 5.
_EMPHASIS = re.compile(r"\*\*|__|`|(?<!\S)\*(?=\S)|(?<=\S)\*(?=[\s.,;:!?]|$)")
_MARKS = re.compile(r"[{}]|\\(?=[$%#])")
# The 2 of cm^2 and m^{2}, and degrees, which are not numbers.
_POWER_OF_UNIT = re.compile(r"(?<=[A-Za-z}])\s?\^\s?(?:[0-9]|\{[0-9]\})(?![0-9])")
_DEGREES = re.compile(r"\^\s?(?:\\circ(?![A-Za-z])|\{\s?\\circ\s?\}|°)|°|\\degree(?![A-Za-z])")
_MINUS_WORDS = re.compile(
    r"(?P<operand>[0-9)\]}]\s*)?\b(?:negative|minus)\s+(?=[$£€¥₹(\s]*[0-9.])", re.IGNORECASE
)
_ABOUT = re.compile(r"≈|\\approx(?![A-Za-z])")

_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9,])|[0-9]++)(?:\.[0-9]++)?"
_NUMBER = re.compile(
    r"(?P<mixed>[0-9]++)\s(?P<over>[0-9]++)/(?P<under>[0-9]++)"
    rf"|(?P<top>{_DECIMAL}|(?<![0-9.])\.[0-9]++)"
    rf"(?:\s?/\s?(?P<bottom>{_DECIMAL}))?"
)
_CURRENCIES = "$£€¥₹"
_SCALE = re.compile(
    rf"[\s{_GONE}]*-?(?P<word>hundred|thousand|million|billion|trillion|dozen|mil|mn|bn)s?(?![A-Za-z])"
    rf"|[\s{_GONE}]?(?P<letter>(?-i:[kKMBm]))(?![A-Za-z])",
    re.IGNORECASE,
)
_LETTERS = {"k": 10**3, "m": 10**6, "b": 10**9}
_OPENING = f" \n\t{_GONE}({_CURRENCIES}"
_CURRENCY = re.compile(rf"[{_CURRENCIES}][\s{_GONE}]*$")
_CODES = r"(?:Rs\.?|USD|EUR|US|GBP)"
_GLUED_BEFORE = re.compile(
    rf"(?<![A-Za-z])(?!{_CODES}\Z)[A-Za-z]+\(?\Z|[0-9A-Za-z][,:]\Z|(?<!Rs)[^.\s]\.\Z"
)
_BESIDE = re.compile(r"[A-Za-z]+")
_SHORT = {"g", "h", "l", "m", "s", "L", "st", "nd", "rd", "th", "am", "pm", "yr", "yrs", "lbs"}
_CHANGED_AFTER = re.compile(
    rf"[\s{_GONE})]*(?:\^|_|\\|/(?!\s*[A-Za-z])|\*|×|÷|·|!(?!\s*$)|√|π|[+-]\s*$|"
    rf"(?:{units.MULTIPLES}|pi|sqrt|(?![ghlmsI])[b-zB-Z](?!\.)|"
    r"and (?:a|one|three) (?:half|third|quarter|fourth)s?|times(?=\s*[0-9(]))(?![A-Za-z]))",
    re.IGNORECASE,
)
_CHANGED_BEFORE = re.compile(
    r"(?:\\[A-Za-z]+|[\^_√*×÷/0-9]|(?<![A-Za-z])(?:not|half of|half|twice|double|triple|"
    r"times|root of|square of|cube of|negative|minus|sqrt|log|ln|sin|cos|tan))\s*$",
    re.IGNORECASE,
)


def read(text: str) -> Fraction | None:
    """The one number in a short answer, whatever words and units surround it, or None.

    Only the text after the last equals sign counts (8 + 10 = 18), and before "about" (18 ≈ 18.2).
    If several numbers remain (17 or 18), or commands of LaTeX that are not understood, there is no
    answer.
    """
    exact = next((part for part in _ABOUT.split(dress.remove(text)) if part.strip()), "")
    text = _clean(exact.rpartition("=")[2])
    numbers = list(_NUMBER.finditer(text))
    if len(numbers) != 1 or re.search(r"\\[A-Za-z]|[0-9]!", text):
        return None
    return _value(text, numbers[0])


def read_last(text: str) -> Fraction | None:
    """The last number in a text of any length, or None."""
    text = _clean(text)
    numbers = list(_NUMBER.finditer(text))
    return _value(text, numbers[-1]) if numbers else None


def _clean(text: str) -> str:
    """The text without the marks that LaTeX and typography add to a number."""
    text = _EMPHASIS.sub(_GONE, text.translate(_TRANSLATION))
    if "\\" in text or "{" in text or "^" in text or "°" in text:
        text = _THOUSANDS.sub(lambda m: "" if m[0] == "\\," else ",", text)
        text = _FRACTION.sub(_slash, text)
        text = _DEGREES.sub(" ", text)
        text = _WRAPPER.sub(_GONE, text)
        text = _POWER_OF_UNIT.sub(" ", text)
        text = _MARKS.sub(_GONE, _SPACING.sub(" ", text))
    # "10 minus 3" is a difference, "minus 3" a number.
    return _MINUS_WORDS.sub(lambda m: f"{m['operand']}- " if m["operand"] else "-", text)


def _slash(match: re.Match[str]) -> str:
    before, a, b, c, d = match.groups()
    top, bottom = a or b, c or d
    # With a digit before the fraction it is a mixed number: 1\frac{1}{2}.
    return f"{before} {top}/{bottom}" if before else f"{top}/{bottom}"


def _value(text: str, match: re.Match[str]) -> Fraction | None:
    """The value of a number with its sign and scale, or None if something else changes it."""
    if len(match[0]) > LONGEST:
        return None
    before = text[max(0, match.start() - LONGEST) : match.start()]
    after = text[match.end() : match.end() + LONGEST]
    sign = _sign(before)
    scale, rest = _scale(after, _CURRENCY.search(before) is not None)
    if sign is None or scale is None or _CHANGED_AFTER.match(rest):
        return None
    if scale != 1 and rest.lstrip().startswith("%"):
        return None
    part = match.groupdict()
    top, bottom = part["top"] or part["over"], part["bottom"] or part["under"] or "1"
    divisor = Fraction(bottom.replace(",", ""))
    if not divisor:
        return None
    value = Fraction(part["mixed"] or 0) + Fraction(top.replace(",", "")) / divisor
    return sign * scale * value


def _sign(before: str) -> int | None:
    """1 or -1 by the text before a number, or None if that changes the number otherwise."""
    front = re.sub(rf"{_CODES}\s*$", "", before).rstrip(_OPENING)
    if unicodedata.category((before or " ")[-1]) in ("Pd", "Sm", "Nd", "No", "Nl") and (
        before[-1] not in "+-=|~"
    ):
        return None  # <5, and signs that are not understood
    signs = re.search(rf"[-+±{_GONE}\s]*$", front)[0]
    marks = [c for c in signs if c in "-+±"]
    if not marks or front[-1:] not in marks:
        return None if _CHANGED_BEFORE.search(front) or _GLUED_BEFORE.search(before) else 1
    bare = front[: len(front) - len(signs)]
    operand = bare[-1:].isalnum() or bare[-1:] in tuple(")]}%")
    glued = front[-2:-1] not in ("", " ", "\n", "\t", _GONE) or before == front == bare
    apart = before[len(front) :][:1].isspace()
    if operand and (glued or apart):
        return 1 if len(marks) == 1 else None  # 10-3, or a dash after a word
    if len(marks) > 1 or marks == ["±"] or (not operand and _CHANGED_BEFORE.search(bare)):
        return None
    return -1 if marks == ["-"] else 1


def _scale(after: str, currency: bool) -> tuple[int | None, str]:
    """The factor that words or letters after a number give it, and the text after them.

    The factor is None if letters stand beside the number that are neither a factor nor a unit.
    """
    scale = 1
    while found := _SCALE.match(after):
        if found["word"]:
            scale *= units.SCALES[found["word"].lower()]
        elif scale == 1 and (found["letter"] != "m" or currency):
            scale = _LETTERS[found["letter"].lower()]
        else:
            break
        after = after[found.end() :]
    beside = _BESIDE.match(after)
    if beside and scale == 1:
        known = beside[0] in _SHORT or units.is_known(beside[0])
        return (1 if known else None), after
    return scale, after
