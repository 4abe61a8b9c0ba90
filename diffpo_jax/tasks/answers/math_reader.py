r"""Reads a LaTeX answer as a tree, all of it or not at all.

    list      one or more statements, between commas, semicolons, "and", "or"
    statement sides with = < > \le \ge \ne \in between them
    side      values with \cup between them
    value     an expression (`expression_reader`) and perhaps a unit; a tuple, interval or set; a
              matrix, perhaps times a number; words; 43_{6}

What is not in the grammar is refused (`NotUnderstood`): no part of a text is left out, and none is
guessed.
"""

import re

from diffpo_jax.tasks.answers import dress, tex_tokens, units
from diffpo_jax.tasks.answers.expression_reader import CONSTANTS, ExpressionReader
from diffpo_jax.tasks.answers.math_tree import (
    Answer,
    Apply,
    Brackets,
    Collection,
    Expression,
    InBase,
    Matrix,
    Name,
    NotUnderstood,
    Quantity,
    Relation,
    Union,
    Words,
)
from diffpo_jax.tasks.answers.tex_tokens import GREEK, Token

LONGEST = 1_000  # characters of an answer (those of MATH-500 have up to 53)

_RELATIONS = {"=", "<", ">", "le", "ge", "ne", "in"}
_MATRICES = {"pmatrix", "bmatrix", "matrix"}
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_IN_BASE = re.compile(
    r"\(?([0-9A-Z]+)\)?\s*(?:_\s*\{?\s*|\\text\{\s*base\s*\}?\s*|\s+base\s+)"
    rf"(?:\\text\{{|\\mathrm\{{)?(?:\s*base\s+)?([0-9]{{1,2}}|{'|'.join(_BASES)})\s*\}}*"
)


def read(text: str) -> Answer:
    """The tree of an answer.

    Raises:
      NotUnderstood: the text, or a part of it, is not in the grammar.  Nothing else is raised.
    """
    if len(text) > LONGEST:
        raise NotUnderstood(f"{len(text)} characters: more than {LONGEST}")
    text = dress.remove(text)
    if match := _IN_BASE.fullmatch(text.replace(r"\left", "").replace(r"\right", "")):
        digits, base = match[1], _BASES.get(match[2]) or int(match[2])
        # A_2 is a name, A3_{16} a number.
        if digits[0].isdigit() or (base > 10 and not digits.isalpha()):
            return _in_base(digits, base)
    reader = _Reader(tex_tokens.tokens(text))
    answer = reader.list()
    reader.expect_end()
    return answer


def _in_base(digits: str, base: int) -> InBase:
    try:
        return InBase(int(digits, base), base)
    except ValueError:  # a digit too large, or a base over 36
        raise NotUnderstood(f"{digits} is not a number in base {base}") from None


class _Reader(ExpressionReader):
    """A parser by recursive descent.  Every method reads what it is named after."""

    def _ends_value(self) -> bool:
        token = self._peek()
        if token.kind == "text":
            return _is_separator(token)
        return token.kind == "end" or self._is(
            ",", ";", "and", "or", ")", "]", "}", "cup", "\\", "&", *_RELATIONS
        )

    # Lists, statements, sides.

    def list(self) -> Answer:
        items, joined = [self._statement()], set()
        while self._is(",", ";", "and", "or") or _is_separator(self._peek()):
            while self._is(",", ";", "and", "or") or _is_separator(self._peek()):
                joined.add(self._take().text.strip(" ,;"))  # ", and" is one separator
            items.append(self._statement())
        if len(items) == 1:
            return items[0]
        if joined >= {"and", "or"}:
            raise NotUnderstood("'and' beside 'or'")
        return Collection(tuple(items), "".join(joined))

    def _statement(self) -> Answer:
        start = self._place
        subject = self._subject()
        self._place = start
        sides, signs = [self._side(subject)], []
        while self._is(*_RELATIONS):
            signs.append(self._take().text)
            sides.append(self._side(""))
        return Relation(tuple(sides), tuple(signs), subject) if signs else sides[0]

    def _subject(self) -> str:
        """The names before "=" or \\in if they only name what follows: x, x_1, f(x), (x, y)."""
        words = []
        while not self._is("=", "in"):
            if self._peek().kind == "end":
                return ""
            token = self._take()
            named = token.kind == "name" or token.text in GREEK
            if (
                not named
                and token.text not in ("_", "{", "}", "(", ")", ",")
                and not (token.kind == "number" and words[-1:] in (["_"], ["{"]))
            ):
                return ""
            words += [] if token.text in ("{", "}") and token.kind == "sign" else [token.text]
        text = "".join(words)
        name = r"(?:[A-Za-z]|[a-z]{2,})(?:_[A-Za-z0-9]+)?"
        whole = rf"{name}(?:\([A-Za-z](?:,[A-Za-z])*\))?|\({name}(?:,{name})+\)"
        if not re.fullmatch(whole, text):
            return ""
        # Two letters side by side are a product, unless they are one Greek letter.
        letters = re.match("[a-z]{2,}", text)
        return "" if letters and letters[0] not in GREEK else text

    def _side(self, subject: str) -> Answer:
        if subject:
            while not self._is("=", "in"):
                self._take()
            return Words(subject)
        parts = [self._value()]
        while self._accept("cup"):
            parts.append(self._value())
        return parts[0] if len(parts) == 1 else Union(tuple(parts))

    # Values.

    def _value(self) -> Answer:
        if (words := self._words()) is not None:
            return words
        for method in (self._set, self._matrix, self._brackets):
            start = self._place
            found = method()
            if found is not None and self._ends_value():
                return found
            self._place = start
        return self._quantity()

    def _words(self) -> Words | None:
        start, words = self._place, []
        bracketed = self._is("(")
        self._place += bracketed
        while self._peek().kind in ("text", "word") and not self._ends_value():
            words.append(self._take().text)
        if words and bracketed and self._accept(")"):
            bracketed = False
        if words and not bracketed and self._ends_value():
            return Words(units.plain_words(" ".join(words)))
        self._place = start
        return None

    def _set(self) -> Answer | None:
        if self._peek() == Token("command", "emptyset", self._peek().spaced):
            self._take()
            return Collection(())
        if not (self._peek().kind == "command" and self._accept("{")):
            return None
        if self._peek().kind == "command" and self._accept("}"):
            return Collection(())
        items = self._nested(self._items)
        if self._peek().kind != "command":
            raise NotUnderstood("a set is not closed")
        self._expect("}")
        return Collection(items)

    def _items(self) -> tuple[Answer, ...]:
        items = [self._value()]
        while self._accept(","):
            items.append(self._value())
        return tuple(items)

    def _brackets(self) -> Answer | None:
        if not self._is("(", "["):
            return None
        opening = self._take().text
        items = self._nested(self._items)
        if len(items) == 1 or not self._is(")", "]"):
            return None  # brackets of an expression
        return Brackets(opening, self._take().text, items)

    def _matrix(self) -> Answer | None:
        factor = None
        if not self._is("begin"):
            try:
                factor = self._signed_term()
            except NotUnderstood:
                return None
            if not self._is("begin"):
                return None
        self._take()
        kind = self._environment()
        rows, row = [], [self._nested(self._sum)]
        while True:
            if self._accept("&"):
                row.append(self._nested(self._sum))
            elif self._accept("\\"):
                rows.append(tuple(row))
                if self._is("end"):
                    break
                row = [self._nested(self._sum)]
            else:
                rows.append(tuple(row))
                break
        self._expect("end")
        if self._environment() != kind or len({len(row) for row in rows}) != 1:
            raise NotUnderstood("the rows of a matrix do not match")
        if factor is not None:
            rows = [tuple(Apply("*", (factor, cell)) for cell in row) for row in rows]
        return Matrix(tuple(rows))

    def _environment(self) -> str:
        self._expect("{")
        name = "".join(iter(lambda: "" if self._is("}") else self._take().text, ""))
        self._expect("}")
        if name not in _MATRICES:
            raise NotUnderstood(f"{name!r} is not a matrix")
        return name

    def _quantity(self) -> Quantity:
        sign, currency = "", self._currency()
        if self._is("-", "+") and self._is_currency(ahead=1):
            sign, currency = self._take().text, self._currency()
        value = self._sum()
        value = Apply("-", (value,)) if sign == "-" else value
        unit = self._unit(value)
        if currency and unit not in ("", currency):
            raise NotUnderstood(f"two units: {currency} and {unit}")
        if not self._ends_value():
            raise NotUnderstood(f"{self._peek().text!r} after a value")
        return Quantity(value, currency or unit)

    def _is_currency(self, ahead: int = 0) -> bool:
        return self._is("$", ahead=ahead)

    def _currency(self) -> str:
        return units.DOLLAR if self._accept("$") else ""

    def _unit(self, value: Expression) -> str:
        """The unit after a value, or ""."""
        token = self._peek()
        if token.kind == "degree":
            self._take()
            return units.DEGREE
        if self._accept("%"):
            return units.PERCENT
        parts = []
        while not self._ends_value():
            token = self._take()
            if token.kind in ("text", "word"):
                parts.append(token.text)
            elif token.kind == "name" and (token.spaced or parts) and not _has_names(value):
                parts.append(self._letters(token))
            elif token.text == "/" and parts:
                parts.append("per")
            elif token.text == "^" and parts:
                braced = self._accept("{")
                parts.append(f"^{self._take().text}")
                if braced:
                    self._expect("}")
            else:
                raise NotUnderstood(f"{token.text!r} after a value")
        return units.canonical(" ".join(parts)) if parts else ""

    def _letters(self, first: Token) -> str:
        """Letters side by side, as a unit that is not in \\text{...} has them."""
        letters = first.text
        while self._peek().kind == "name" and not self._peek().spaced:
            letters += self._take().text
        if not units.is_known(letters):
            raise NotUnderstood(f"{letters!r} is not a unit")
        return letters


def _is_separator(token: Token) -> bool:
    return token.kind == "text" and token.text.strip(" ,") in ("and", "or", "")


def _has_names(value: Expression) -> bool:
    if isinstance(value, Apply):
        return any(_has_names(operand) for operand in value.operands)
    return isinstance(value, Name) and value.name not in CONSTANTS
