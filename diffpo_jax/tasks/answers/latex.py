"""Whether two short LaTeX answers are plainly the same, or plainly different, without algebra.

Answers are the same if they are one string after meaningless differences are removed (spacing,
\\left and \\right, \\dfrac, units, `x =`).  Numbers are compared exactly.  Undecided pairs, such as
x^2 - 1 and (x - 1)(x + 1), are left to `algebra`.  Units are dropped, not compared: 5 cm is 5 m.

No function raises, and every function takes time linear in the text, whatever the text.
"""

import re

from diffpo_jax.tasks.answers import numbers

LONGEST = 1_000  # characters of an answer (those of MATH-500 have up to 53)

_SYMBOLS = str.maketrans(
    {
        "\u2212": "-",
        "\u00d7": r"\times ",
        "\u00b7": r"\cdot ",
        "\u00f7": r"\div ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2260": r"\ne ",
        "\u03c0": r"\pi ",
        "\u221e": r"\infty ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\u00b0": r"^\circ ",
        "\u00b2": "^2",
        "\u00b3": "^3",
        "\xa0": " ",
    }
)
_NAMES = {"leq": "le", "geq": "ge", "neq": "ne", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac"}
_NAMES |= {"bmatrix": "pmatrix", "lbrace": "{", "rbrace": "}"}
_RENAMED = re.compile(r"\\(leq|geq|neq|[dtc]frac|[lr]brace)(?![A-Za-z])|(?<=\{)(bmatrix)(?=\})")
_DELIMITERS = ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")
# Commands that only set the type.  They are dropped, and their contents stay.
_TYPE = re.compile(
    r"\\(?:text(?:bf|rm|it|normal)?|math(?:rm|bf|it|sf)|mbox|operatorname|displaystyle"
    r"|left|right|[bB]igg?[lr]?|limits)(?![A-Za-z])"
)
_SPACING = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\s")
_DEGREES = re.compile(r"\^(?:\\circ(?![A-Za-z])|\{\\circ\})")
_UNIT = re.compile(
    r"(?<=[0-9}])\s*+\\(?:text|mathrm|mbox)\s?\{[A-Za-z.\s/^0-9]*+\}(?:\^\{?[0-9]\}?)?$"
)
_BARE_FRACTION = re.compile(r"\\frac([0-9])([0-9])")
_BARE_TOP = re.compile(r"\\frac([0-9])(?=\{)")
_BARE_BOTTOM = re.compile(r"(\\frac\{[^{}]*+\})([0-9])")
_BARE_ROOT = re.compile(r"\\sqrt([0-9A-Za-z])")
_ONE_IN_BRACES = re.compile(r"([_^])\{(.)\}")
_WHOLE_FRACTION = re.compile(r"(-?)([0-9]++)/([0-9]++)")
_POINT = re.compile(r"(?<![0-9])\.(?=[0-9])")
_CHOICE = re.compile(r"\(([A-Za-z])\)")
# x =, x_1 =, f(x) =, x \in: the quantity whose value follows.
_SUBJECT = re.compile(
    r"[A-Za-z](?:_\{?[0-9A-Za-z]\}?)?\s?(?:\(\s?[A-Za-z]\s?\))?\s?(?:=(?!=)|\\in\b)"
)


def compare(gold: str, answer: str) -> bool | None:
    """Whether both answers are plainly the same (True) or different (False), or None."""
    if not answer.strip() or len(answer) > LONGEST:
        return False
    gold, answer = _value(gold), _value(answer)
    if normalise(gold) == normalise(answer):
        return True
    a, b = numbers.read_exact(gold), numbers.read_exact(answer)
    if a is None or b is None:
        return None
    # 50% is 50 if the question asks for a percentage, and 0.5 if it asks for a share.
    if ("%" in gold) != ("%" in answer):
        return a == b or a == (100 * b if "%" in gold else b / 100)
    return a == b


def normalise(text: str) -> str:
    """The text without meaningless differences (see the module's docstring)."""
    text = _RENAMED.sub(_rename, _value(text).translate(_SYMBOLS))
    text = _UNIT.sub("", text)
    text = _TYPE.sub("", _DEGREES.sub("", text))
    # A space after a command ends the command's name.
    text = re.sub(r"(\\[A-Za-z]++)\s+(?=[A-Za-z])", r"\1{}", text)
    text = _SPACING.sub("", text.replace(r"\$", "").replace("$", ""))
    text = text.replace(r"\%", "").replace("%", "")
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text)
    text = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _BARE_BOTTOM.sub(r"\1{\2}", _BARE_TOP.sub(r"\\frac{\1}", text))
    text = _POINT.sub("0.", _ONE_IN_BRACES.sub(r"\1\2", text))
    # Braces around everything, left by \text{...}.
    if len(text) > 1 and text[0] == "{" and text.find("}") == len(text) - 1:
        text = text[1:-1]
    if match := _WHOLE_FRACTION.fullmatch(text):
        return rf"{match[1]}\frac{{{match[2]}}}{{{match[3]}}}"
    if match := _CHOICE.fullmatch(text):
        return match[1]
    return text


def _value(text: str) -> str:
    """The text without the dollars, the full stop or the "x =" around an answer."""
    text = text.strip()
    for start, end in _DELIMITERS:
        inner = text.removeprefix(start).removesuffix(".").removesuffix(end)
        enclosed = text.rstrip(".") == f"{start}{inner}{end}"
        if enclosed and (end != "$" or "$" not in inner):  # "$5$ or $6$" is two
            text = inner.strip()
            break
    text = text.removesuffix(".").strip()
    if text.count("=") == 1 or r"\in" in text:
        match = _SUBJECT.match(text)
        if match and len(match[0]) < len(text):
            return text[match.end() :].strip()
    return text


def _rename(match: re.Match[str]) -> str:
    return f"\\{_NAMES[match[1]]}" if match[1] else _NAMES[match[2]]
