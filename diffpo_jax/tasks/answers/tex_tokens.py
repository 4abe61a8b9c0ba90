r"""Splits a LaTeX answer into tokens.

A token is a number (with its thousands commas joined: 10,\!080), a name (a letter, a Greek letter),
a command, a sign, a word, or the text of \text{...}.  Sizes of brackets and spacing are dropped.
Signs of Unicode and a few words of plain text (sqrt, pi, sin) become the commands of LaTeX.
"""

import re
from typing import NamedTuple

from diffpo_jax.tasks.answers import characters, dress, units
from diffpo_jax.tasks.answers.math_tree import NotUnderstood

GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "kappa",
    "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega",
    "Gamma", "Delta", "Theta", "Lambda", "Sigma", "Phi", "Psi", "Omega", "ell",
}  # fmt: skip
LONGEST_PRODUCT = 3  # letters side by side; more are a word

# A minus among raised digits is part of a power.
_SUPERSCRIPTS = characters.SUPERSCRIPTS | {"\u207b": "-"}
_SUPERSCRIPT = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_SYMBOLS = str.maketrans(
    characters.SIGNS
    | dict.fromkeys(characters.TIMES, r"\times ")
    | {sign: rf"\frac{{{a}}}{{{b}}}" for sign, (a, b) in characters.FRACTIONS.items()}
    | {
        "\u00b1": r"\pm ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2260": r"\ne ",
        "\u2248": r"\approx ",
        "\u2208": r"\in ",
        "\u2228": r"\lor ",
        "\u221e": r"\infty ",
        "\u222a": r"\cup ",
        "\u2205": r"\emptyset ",
        "\u221a": r"\sqrt ",
        "\u03c0": r"\pi ",
        "\u03b8": r"\theta ",
        "\u00b0": r"^\circ ",
    }
)
_COMPARISONS = {"<=": r"\le ", ">=": r"\ge ", "!=": r"\ne "}
# Thousands: 10,\!080 and 10{,}080 and 10\,080; a plain space is no separator.
_THOUSANDS = re.compile(
    r"(?<![0-9.])[0-9]{1,3}(?:(?:\{,\}|\\!\s*+,\s*+(?:\\!)?|,\s*+\\!|\\[,; ])\s*+[0-9]{3})++"
    r"(?![0-9])"
)
_NOT_DIGITS = re.compile(r"[^0-9]")
_REPEATING = re.compile(r"(?<![0-9])\.(?=\s*\\(?:overline|bar)\b)")
_ROW_SPACE = re.compile(r"\\\\\s*\[[0-9.]+\s?(?:pt|em|ex|mm|cm)\]")
_DROPPED = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|hfill|strut)(?![A-Za-z])\.?"
)
_SPACING = re.compile(
    r"(?<!\\)\\[,;:! \n]|\\(?:q?quad|thinspace|enspace|hspace\{[^{}]*\})(?![A-Za-z])|~"
)
_DEGREES = re.compile(r"\^\s*+(?:\\circ(?![A-Za-z])|\{\s*+\\circ\s*+\})|\\degree(?![A-Za-z])")
_TEXT = re.compile(
    r"\\(text(?:bf|rm|it|normal|sf)?|math(?:rm|bf|it|sf|bb)|mbox|operatorname|boldsymbol|vec)"
    r"\*?\s*+\{"
)
_DOLLAR = re.compile(r"(?<!\\)\$")
_COMMAND = re.compile(r"\\([A-Za-z]++|[{}$%|\\&#_])")
_NUMBER = re.compile(r"[0-9]++(?:\.[0-9]*+)?|\.[0-9]++")
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})++(?![0-9]|,[0-9])(?:\.[0-9]++)?")
_LETTERS = re.compile(r"[A-Za-z]++")
_ALIASES = {
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">",
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "lbrace": "{", "rbrace": "}", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|",
    "lbrack": "[", "rbrack": "]", "ast": "cdot", "varnothing": "emptyset", "colon": ":",
    "bar": "overline", "lor": "or", "bigcup": "cup", "thickapprox": "approx",
}  # fmt: skip
# Words of plain text: commands without a backslash, and words that stay words.
_PLAIN_COMMANDS = {
    "sqrt", "pi", "sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "arcsin", "arccos",
    "arctan", "infty", "theta",
}  # fmt: skip
_SHORT_WORDS = {"and", "or", "per", "sq", "cu"}


class Token(NamedTuple):
    """A token, and whether space comes before it.

    Attributes:
      kind: "number", "name", "command", "sign", "word", "text", "bold" or "degree".
      text: what it says; of a command, its name without the backslash.
    """

    kind: str
    text: str
    spaced: bool


def tokens(text: str, thousands: bool = True) -> list[Token]:
    """The tokens of an answer.

    Args:
      thousands: whether commas before three digits separate thousands, outside brackets.

    Raises:
      NotUnderstood: a character starts no token.
    """
    text = _SUPERSCRIPT.sub(_exponent, text).translate(_SYMBOLS)
    for sign, command in _COMPARISONS.items():
        text = text.replace(sign, command)
    text = _REPEATING.sub("0.", _ROW_SPACE.sub(r"\\\\", text))
    text = _THOUSANDS.sub(lambda m: _NOT_DIGITS.sub("", m[0]), text)
    text = _DEGREES.sub(r"\\degree ", _SPACING.sub(" ", _DROPPED.sub(" ", text)))
    found: list[Token] = []
    # Pairs of dollars only enclose formulas: $3$ and $5$.
    dollars = [] if len(_DOLLAR.findall(text)) % 2 else ["$"]
    place, depth, spaced = 0, 0 if thousands else 1, False
    while place < len(text):
        if text[place].isspace():
            place, spaced = place + 1, True
            continue
        new, place = _next(text, place, spaced, depth)
        spaced = False
        for token in new:
            if token.text not in "{}" or token.kind == "command":
                depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.text, 0)
            if token.kind != "sign" or token.text not in dollars:
                found.append(token)
    return found


def _next(text: str, place: int, spaced: bool, depth: int) -> tuple[list[Token], int]:
    """The tokens that begin at `place`, and the place after them."""
    if opened := _TEXT.match(text, place):
        end = dress.closing_brace(text, opened.end())
        if end is None:
            raise NotUnderstood("a brace is not closed")
        return _text(opened[1], text[opened.end() : end], spaced), end + 1
    if command := _COMMAND.match(text, place):
        name = _ALIASES.get(command[1], command[1])
        if name == "degree":
            return [Token("degree", name, spaced)], command.end()
        # \{ is the sign of a set; { groups.
        kind = "command" if name.isalpha() or name in ("{", "}", "$", "%", "\\") else "sign"
        kind = "sign" if name in ("<", ">", "|", "[", "]") else kind
        return [Token(kind, name, spaced)], command.end()
    # In brackets a comma always separates: (2,102) is a pair.
    pattern = _GROUPED if depth == 0 and _GROUPED.match(text, place) else _NUMBER
    if number := pattern.match(text, place):
        return [Token("number", number[0].replace(",", ""), spaced)], number.end()
    if letters := _LETTERS.match(text, place):
        return _letters(letters[0], spaced), letters.end()
    if text.startswith("**", place):
        return [Token("sign", "^", spaced)], place + 2
    if text[place] in "+-*/^_(){}[]|,;=<>!%$&:'":
        return [Token("sign", text[place], spaced)], place + 1
    raise NotUnderstood(f"{text[place]!r}")


def _letters(letters: str, spaced: bool) -> list[Token]:
    """Letters side by side: a command of plain text, a word, or a product of names."""
    if letters in _PLAIN_COMMANDS:
        return [Token("command", letters, spaced)]
    if letters in _SHORT_WORDS or len(letters) > LONGEST_PRODUCT:
        return [Token("word", letters, spaced)]
    return [Token("name", letter, spaced and not i) for i, letter in enumerate(letters)]


def _text(command: str, content: str, spaced: bool) -> list[Token]:
    r"""\text{...}: a function's name, a number, one letter, or words."""
    bare = content.strip()
    if bare in _PLAIN_COMMANDS:
        return [Token("command", bare, spaced)]
    if len(bare) == 1 and bare.isalpha() and bare.isascii():
        bold = command in ("mathbf", "boldsymbol", "mathbb", "textbf", "vec")
        if not bold and bare in units.LETTERS:
            return [Token("text", bare, spaced)]
        return [Token("bold" if bold else "name", bare, spaced)]
    if not any(c.isalpha() for c in bare):  # -\text{5}
        return [token._replace(spaced=spaced or token.spaced) for token in tokens(bare)]
    return [Token("text", bare, spaced)]


def _exponent(match: re.Match[str]) -> str:
    return f"^{{{''.join(_SUPERSCRIPTS[c] for c in match[0])}}}"
