"""What a mathematical answer is: expressions, and the forms of answers that hold them.

The trees are made by `math_reader.read` and compared by `math_equality.equal`.  They are plain
values: they can be hashed, compared, and sent to another process.
"""

from fractions import Fraction
from typing import NamedTuple, TypeAlias


class NotUnderstood(ValueError):
    """The text, or a part of it, is not in the grammar.  The message says which."""


class Number(NamedTuple):
    """A number as it is written.  `decimals` is None without a decimal point."""

    value: Fraction
    decimals: int | None = None


class Name(NamedTuple):
    """A variable or a constant: "x", "x_1", "pi", "e", "i", "infty"."""

    name: str


class Apply(NamedTuple):
    """An operation or function: "+", "*" (of any number), "/", "^", "-" (of one), "sin", ..."""

    function: str
    operands: tuple["Expression", ...]


Expression: TypeAlias = Number | Name | Apply


class Quantity(NamedTuple):
    """An expression with its unit, "" if there is none."""

    value: Expression
    unit: str = ""


class Words(NamedTuple):
    """An answer in words."""

    text: str


class InBase(NamedTuple):
    """A whole number with the base it is written in."""

    value: int
    base: int


class Brackets(NamedTuple):
    """A tuple, a point or an interval: the brackets and what stands between its commas."""

    opening: str
    closing: str
    items: tuple["Answer", ...]


class Collection(NamedTuple):
    """Answers whose order does not matter: a set, or a list without brackets.

    Attributes:
      joined: "or" or "and" if that stands between the items of a list, else "".
    """

    items: tuple["Answer", ...]
    joined: str = ""


class Union(NamedTuple):
    """Intervals or sets, of which the answer is the union."""

    parts: tuple["Answer", ...]


class Matrix(NamedTuple):
    """The rows of a matrix."""

    rows: tuple[tuple[Expression, ...], ...]


class Relation(NamedTuple):
    """Sides with a sign between each two.

    Attributes:
      signs: each of "=", "<", ">", "le", "ge", "ne", "in".
      subject: the text of the first side if that only names what follows: "x", "f(x)"; else "".
    """

    sides: tuple["Answer", ...]
    signs: tuple[str, ...]
    subject: str


Answer: TypeAlias = Quantity | Words | InBase | Brackets | Collection | Union | Matrix | Relation
