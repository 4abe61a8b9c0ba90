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
from fractions import Fraction

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
    Number,
    Quantity,
    Relation,
    Union,
    Words,
)
from diffpo_jax.tasks.answers.tex_tokens import GREEK, Token

LONGEST = 1_000  # characters of an answer (those of MATH-500 have up to 53)

_RELATIONS = {"=", "<", ">", "le", "ge", "ne", "in", "approx"}
_MATRICES = {"pmatrix", "bmatrix", "matrix", "array"}
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_BASE = rf"([0-9]{{1,2}}|{'|'.join(_BASES)})"
_IN_BASE = re.compile(
    r"(?:([a-z])\s*=\s*)?(?:\(([0-9A-Z]+)\)|([0-9A-Z]+))\s*(?:"
    rf"_\s*{_BASE}|_\s*\{{\s*{_BASE}\s*\}}|_\s*\{{\s*\(\s*{_BASE}\s*\)\s*\}}"
    rf"|_\s*\{{\s*\\(?:text|mathrm)\{{\s*(?:base\s+)?{_BASE}\s*\}}\s*\}}"
    rf"|\(?\s*base\s+{_BASE}\s*\)?|\\text\{{\s*\(?base\s+{_BASE}\)?\s*\}}"
    rf"|\\text\{{\s*base\s*\}}\s*{_BASE})"
)
# Two or more letters in \text{...} are words: \text{No} is not N times o.
_TEXT_ONLY = re.compile(
    r"\\(?:text(?:bf|rm|it|normal)?|mathrm|mbox)\{\s*([A-Za-z][A-Za-z' .-]+)\}\.?"
)


def read(text: str, thousands: bool = True) -> Answer:
    """The tree of an answer.

    Args:
      thousands: whether 1,234 is a number, or a list.

    Raises:
      NotUnderstood: the text, or a part of it, is not in the grammar.  Nothing else is raised.
    """
    if len(text) > LONGEST:
        raise NotUnderstood(f"{len(text)} characters: more than {LONGEST}")
    if words := _TEXT_ONLY.fullmatch(dress.remove(text, commands=False)):
        return Words(units.plain_words(words[1]))
    text = dress.remove(text)
    if match := _IN_BASE.fullmatch(text.replace(r"\left", "").replace(r"\right", "")):
        name, first, second, *bases = match.groups()
        digits, base = first or second, next(base for base in bases if base)
        base = _BASES.get(base) or int(base)
        # A_2 is a name, A3_{16} a number.
        if digits[0].isdigit() or (base > 10 and not digits.isalpha()):
            number = _in_base(digits, base)
            return Relation((Words(name), number), ("=",), name) if name else number
    reader = _Reader(tex_tokens.tokens(text, thousands))
    answer = reader.read_all()
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

    def read_all(self) -> Answer:
        """A whole answer: one statement or a list of them."""
        items, joined = [self._statement()], set()
        while self._is(",", ";", "and", "or") or _is_separator(self._peek()):
            while self._is(",", ";", "and", "or") or _is_separator(self._peek()):
                joined.add(self._take().text.strip(" ,;"))  # ", and" is one separator
            items.append(self._statement())
        if len(items) == 1:
            return items[0]
        if joined >= {"and", "or"}:
            raise NotUnderstood("'and' beside 'or'")
        first = items[0]
        if isinstance(first, Relation) and first.subject and first.signs == ("=",):
            # x = 1, 2 is x = 1, x = 2.
            items = [
                x
                if isinstance(x, Relation)
                else Relation((first.sides[0], x), ("=",), first.subject)
                for x in items
            ]
        return Collection(tuple(items), "".join(joined))

    def _statement(self) -> Answer:
        start = self._place
        subject = self._subject()
        if not subject:
            self._place = start
        sides, signs = [Words(subject) if subject else self._side()], []
        while self._is(*_RELATIONS):
            signs.append(self._take().text)
            sides.append(self._side())
        return Relation(tuple(sides), tuple(signs), subject) if signs else sides[0]

    def _subject(self) -> str:
        """What stands before "=" or \\in if it only names what follows, else "".

        x, x_1, f(x), f(3), (x, y), \\angle ABC.
        """
        bracketed = self._accept("(")
        name = self._name()
        if name and not bracketed and self._accept("("):
            inner = self._names(numbers=True)
            name = f"{name}({inner})" if inner and self._accept(")") else ""
        elif name and bracketed:
            rest = self._names() if self._accept(",") else ""
            name = f"({name},{rest})" if rest and self._accept(")") else ""
        return name if self._is("=", "in") else ""

    def _names(self, numbers: bool = False) -> str:
        """Names between commas, or "" if something else is among them."""
        names = []
        while True:
            number = numbers and self._peek().kind == "number"
            names.append(self._take().text if number else self._name())
            if not self._accept(","):
                return ",".join(names) if all(names) else ""

    def _name(self) -> str:
        """A letter with its subscript, or an angle of up to three letters, or ""."""
        token = self._peek()
        if self._accept("angle"):
            letters = ""
            while self._peek().kind == "name" and len(letters) < 3:
                letters += self._take().text
            return f"angle {letters}" if letters else ""
        if token.kind not in ("name", "bold") and token.text not in GREEK:
            return ""
        self._take()
        if not self._accept("_"):
            return token.text
        braced = self._accept("{")
        part = self._peek()
        if part.kind not in ("name", "number") or (
            self._take() and braced and not self._accept("}")
        ):
            return ""
        return f"{token.text}_{part.text}"

    def _side(self) -> Answer:
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
        if self._accept("emptyset"):
            return Collection(())
        if self._peek()[:2] == ("bold", "R"):  # all real numbers
            self._take()
            infinity = Name("infty")
            return Brackets("(", ")", (Quantity(Apply("-", (infinity,))), Quantity(infinity)))
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
        """A matrix, in brackets of its own or not, and perhaps with a number before it."""
        minus, factor = self._accept("-"), None
        if not self._starts_matrix():
            try:
                factor = self._term()
            except NotUnderstood:
                return None
            if not self._starts_matrix():
                return None
        opened = self._take().text if self._is("(", "[") else ""
        rows = self._rows()
        if opened:
            self._expect({"(": ")", "[": "]"}[opened])
        if minus:
            rows = [tuple(Apply("-", (cell,)) for cell in row) for row in rows]
        if factor is not None:
            rows = [tuple(Apply("*", (factor, cell)) for cell in row) for row in rows]
        return Matrix(tuple(rows))

    def _starts_matrix(self) -> bool:
        return self._is("begin") or (self._is("(", "[") and self._is("begin", ahead=1))

    def _rows(self) -> list[tuple[Expression, ...]]:
        self._expect("begin")
        kind = self._environment()
        if kind == "array" and self._accept("{"):  # the alignment of columns
            while not self._accept("}"):
                self._take()
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
        return rows

    def _environment(self) -> str:
        self._expect("{")
        name = "".join(iter(lambda: "" if self._is("}") else self._take().text, ""))
        self._expect("}")
        if name not in _MATRICES:
            raise NotUnderstood(f"{name!r} is not a matrix")
        return name

    def _quantity(self) -> Quantity:
        sign, currency = "", self._currency()
        if self._is("-", "+") and self._is("$", ahead=1):
            sign, currency = self._take().text, self._currency()
        value = self._sum()
        value = Apply("-", (value,)) if sign == "-" else value
        scale, unit = self._unit(value)
        if currency and unit not in ("", currency):
            raise NotUnderstood(f"two units: {currency} and {unit}")
        if not self._ends_value():
            raise NotUnderstood(f"{self._peek().text!r} after a value")
        if scale != 1:
            value = Apply("*", (value, Number(Fraction(scale))))
        return Quantity(value, currency or unit)

    def _currency(self) -> str:
        return units.DOLLAR if self._accept("$") else ""

    def _unit(self, value: Expression) -> tuple[int, str]:
        """The unit after a value, "" if there is none, and the factor of words like "million"."""
        if self._peek().kind == "degree":
            self._take()
            return 1, units.DEGREE
        if self._accept("%"):
            return 1, units.PERCENT
        parts: list[str] = []
        while not self._ends_value():
            token = self._take()
            if token.kind in ("text", "word"):
                parts += token.text.split()
            elif token.kind == "name" and not _has_names(value):
                parts.append(self._letters(token, single=parts[-1:] == ["per"]))
            elif token.text == "/" and parts:
                parts.append("per")
            elif token.text == "^" and parts:
                braced = self._accept("{")
                parts.append(f"^{self._take().text}")
                if braced:
                    self._expect("}")
            else:
                raise NotUnderstood(f"{token.text!r} after a value")
        scale = 1
        while parts and (factor := units.SCALES.get(parts[0].lower().removesuffix("s"))):
            scale, parts = scale * factor, parts[1:]
        unit = units.canonical(" ".join(parts))
        if self._depth and unit and not units.is_known(unit):
            raise NotUnderstood(f"{unit!r} in brackets")  # (1 apple, 2)
        return scale, unit

    def _letters(self, first: Token, single: bool) -> str:
        """Letters side by side, as a unit that is not in \\text{...} has them."""
        letters = first.text
        while self._peek().kind == "name" and not self._peek().spaced:
            letters += self._take().text
        if not units.is_known(letters) and not (single and letters in units.LETTERS):
            raise NotUnderstood(f"{letters!r} is not a unit")
        return letters


def _is_separator(token: Token) -> bool:
    return token.kind == "text" and token.text.strip(" ,;") in ("and", "or", "")


def _has_names(value: Expression) -> bool:
    if isinstance(value, Apply):
        return any(_has_names(operand) for operand in value.operands)
    return isinstance(value, Name) and value.name not in CONSTANTS
