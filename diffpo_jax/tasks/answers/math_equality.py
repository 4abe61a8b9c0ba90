r"""Whether two mathematical answers are the same, form by form.

Expressions are compared exactly, with one rule for approximations (`exact`) in all forms.

A unit, and the name before an equals sign, may be left out or added, but not differ.  Letters are
real numbers of either sign.
"""

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from diffpo_jax.tasks.answers import units
from diffpo_jax.tasks.answers.exact import INFINITY, Algebra, Undecided, rational
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

_MOST_ITEMS = 64  # of a collection
_MIRRORED = {"<": ">", ">": "<", "le": "ge", "ge": "le", "=": "=", "ne": "ne"}
_NO_LOW, _NO_HIGH = Quantity(Apply("-", (INFINITY,))), Quantity(INFINITY)


def equal(gold: Answer, answer: Answer, algebra: Algebra) -> bool:
    """Whether an answer is the gold answer.

    Raises `Undecided` if `algebra` does, and `NotUnderstood` if two signs are plus-minus.
    """
    return _equal_statements(_statement(gold), _statement(answer), algebra)


# Statements: a value, perhaps with the name that it is the value of.


class _Statement(NamedTuple):
    """A value or several that must all be equal (x = 1+2 = 3), the name before it, the relation."""

    subject: str
    values: tuple[Answer, ...]
    relation: Relation | None


def _statement(answer: Answer) -> _Statement:
    if isinstance(answer, Collection):
        return _of_collection(answer)
    if not isinstance(answer, Relation):
        return _Statement("", (_value(answer),), None)
    if answer.subject and set(answer.signs) in ({"="}, {"in"}):
        values = tuple(_value(side) for side in answer.sides[1:])
        if answer.signs[0] == "in" and not isinstance(values[0], Brackets | Collection | Union):
            raise NotUnderstood("an element of what is no set")
        return _Statement(answer.subject, values, answer)
    name, interval = _interval(answer)
    return _Statement(name, () if interval is None else (interval,), answer)


def _of_collection(answer: Collection) -> _Statement:
    """Intervals joined by "or" are a union (x < 1 or x > 2), two inequalities by "and" are one."""
    found = [_interval(x) if isinstance(x, Relation) else ("", x) for x in answer.items]
    names = {name for name, _ in found}
    parts = [part for _, part in found if isinstance(part, Brackets) and len(part.items) == 2]
    if len(names) == 1 and len(parts) == len(found):
        if answer.joined == "or":
            return _Statement(names.pop(), (Union(tuple(parts)),), None)
        if answer.joined == "and" and len(parts) == 2 and names != {""}:
            low, high = sorted(parts, key=lambda part: part.items[0] == _NO_LOW)
            if (low.items[1], high.items[0]) == (_NO_HIGH, _NO_LOW):
                both = Brackets(low.opening, high.closing, (low.items[0], high.items[1]))
                return _Statement(names.pop(), (both,), None)
    return _Statement("", (_value(answer),), None)


def _value(answer: Answer) -> Answer:
    """The value with plus-minus written out as two values."""
    if isinstance(answer, Quantity):
        both = [Quantity(value, answer.unit) for value in _both_signs(answer.value)]
        return both[0] if len(both) == 1 else Collection(tuple(both))
    if isinstance(answer, Collection):
        values = [_value(item) for item in answer.items]
        spread = [
            value.items
            if isinstance(item, Quantity) and isinstance(value, Collection)
            else (value,)
            for item, value in zip(answer.items, values)
        ]
        return Collection(tuple(itertools.chain.from_iterable(spread)), answer.joined)
    return answer


def _both_signs(value: Expression) -> list[Expression]:
    if not isinstance(value, Apply):
        return [value]
    choices = [_both_signs(operand) for operand in value.operands]
    if sum(len(choice) > 1 for choice in choices) + (value.function == "pm") > 1:
        raise NotUnderstood("two signs may be chosen together or apart")
    found = []
    for operands in itertools.product(*choices):
        if value.function == "pm":
            first, second = operands
            found += [
                Apply("+", (first, second)),
                Apply("+", (first, Apply("-", (second,)))),
            ]
        else:
            found.append(Apply(value.function, operands))
    return found


def _interval(relation: Relation) -> tuple[str, Brackets | None]:
    """An inequality in one variable as an interval: -2 < x <= 7 is (-2, 7] for x."""
    sides, signs = list(relation.sides), list(relation.signs)
    if signs[0] in (">", "ge"):
        sides, signs = sides[::-1], [_MIRRORED[sign] for sign in signs[::-1] if sign in _MIRRORED]
    if len(signs) != len(sides) - 1 or not set(signs) <= {"<", "le"}:
        return "", None
    names = [
        (place, side.value.name)
        for place, side in enumerate(sides)
        if isinstance(side, Quantity) and isinstance(side.value, Name) and _has_variable(side.value)
    ]
    if len(names) != 1 or len(sides) > 3 or not all(isinstance(s, Quantity) for s in sides):
        return "", None
    ((place, name),) = names
    if len(sides) == 3 and place != 1:
        return "", None
    others = [side.value for i, side in enumerate(sides) if i != place]
    if any(_has_variable(other) for other in others):
        return "", None
    low: Answer = _NO_LOW
    high: Answer = _NO_HIGH
    opening, closing = "(", ")"
    if place > 0:
        low, opening = sides[place - 1], "[" if signs[place - 1] == "le" else "("
    if place < len(sides) - 1:
        high, closing = sides[place + 1], "]" if signs[place] == "le" else ")"
    return name, Brackets(opening, closing, (low, high))


def _has_variable(value: Expression) -> bool:
    if isinstance(value, Apply):
        return any(_has_variable(operand) for operand in value.operands)
    return isinstance(value, Name) and value.name not in ("pi", "e", "i", "infty")


def _equal_statements(gold: _Statement, answer: _Statement, algebra: Algebra) -> bool:
    comparable = gold.values and answer.values and _may_share(gold.subject, answer.subject)
    # A chain of equations is right if all its sides are.
    if comparable and all(_equal_values(gold.values[-1], v, algebra) for v in answer.values):
        return True
    if answer.relation is None:
        return False
    if gold.relation is not None:
        return _equal_relations(gold.relation, answer.relation, algebra)
    sides, signs = answer.relation.sides, answer.relation.signs
    if signs == ("approx",):
        # 2\sqrt{5} \approx 4.47: the first side is the answer, and the other must round it.
        first, second = (_value(side) for side in sides)
        exact = _equal_values(gold.values[-1], first, algebra)
        return exact and _equal_values(second, first, algebra)
    # 8 + 15 = 23 is 23, but x^2+1 = 0 is not 0.
    equation = set(signs) == {"="} and not answer.subject
    return equation and all(_equal_values(gold.values[-1], _value(x), algebra) for x in sides)


def _may_share(gold: str, answer: str) -> bool:
    """Whether values with these names before them can be compared."""
    if gold and answer:
        return gold == answer or {gold, answer} == {"y", "f(x)"}
    # (y, x) = (8, -2) is not (8, -2).
    names = (gold or answer).strip("()").split(",")
    return names == sorted(names)


# Values.


def _equal_values(gold: Answer, answer: Answer, algebra: Algebra) -> bool:
    match gold, answer:
        case Quantity(), Quantity():
            return _equal_quantities(gold, answer, algebra)
        case Words(), Words():
            return gold.text == answer.text
        case InBase(), InBase():
            return gold == answer
        case Brackets(), Brackets():
            alike = (gold.opening, gold.closing) == (answer.opening, answer.closing)
            return alike and _each_equal(gold.items, answer.items, algebra)
        case Matrix(), Matrix():
            shapes = [[len(row) for row in matrix.rows] for matrix in (gold, answer)]
            cells = zip(itertools.chain(*gold.rows), itertools.chain(*answer.rows))
            return shapes[0] == shapes[1] and all(algebra.same(*pair) for pair in cells)
        case Union(), Union():
            return _match(gold.parts, answer.parts, lambda g, a: _equal_values(g, a, algebra))
        case Collection(), Collection():
            return _equal_collections(gold, answer, algebra)
        case Brackets("(", ")"), Collection():
            items = _by_name(answer)
            return items is not None and _each_equal(gold.items, items, algebra)
        case Collection(), Brackets("(", ")"):
            items = _by_name(gold)
            return items is not None and _each_equal(items, answer.items, algebra)
    return False


def _equal_quantities(gold: Quantity, answer: Quantity, algebra: Algebra) -> bool:
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    # 50% is 50 if the question asks for a percentage, and 0.5 if it asks for a share; but 0.5% is
    # not 0.5, which is a share itself.
    share = rational(gold.value) if not gold.unit and answer.unit == units.PERCENT else None
    if (share is None or abs(share) >= 1) and algebra.same(gold.value, answer.value):
        return True
    if units.PERCENT not in (gold.unit, answer.unit) or gold.unit == answer.unit:
        return False
    hundred = Number(Fraction(100))
    if gold.unit == units.PERCENT:
        return algebra.same(Apply("/", (gold.value, hundred)), answer.value)
    return algebra.same(gold.value, Apply("/", (answer.value, hundred)))


def _each_equal(golds: Sequence[Answer], answers: Sequence[Answer], algebra: Algebra) -> bool:
    pairs = zip(golds, answers)
    return len(golds) == len(answers) and all(equal(g, a, algebra) for g, a in pairs)


def _equal_collections(gold: Collection, answer: Collection, algebra: Algebra) -> bool:
    sizes = len(gold.items), len(answer.items)
    if sizes[0] != sizes[1] or sizes[0] > _MOST_ITEMS:
        return False
    if any(isinstance(item, Words) for item in gold.items) and gold.joined != answer.joined:
        return False
    names = [sorted(_statement(i).subject for i in side.items) for side in (gold, answer)]
    # x = 1, y = 2 is not 1, 2: the names tell which is which.
    if any(len(set(several)) > 1 for several in names) and names[0] != names[1]:
        return False
    return _match(gold.items, answer.items, lambda g, a: equal(g, a, algebra))


def _by_name(collection: Collection) -> tuple[Answer, ...] | None:
    """The values of x = 1, y = 2 in the order of their names, or None if it is no such list."""
    found = [_statement(item) for item in collection.items]
    values = {x.subject: x.values[0] for x in found if x.subject and len(x.values) == 1}
    if len(values) != len(found):
        return None
    return tuple(values[name] for name in sorted(values))


def _match(
    golds: Sequence[Answer], answers: Sequence[Answer], same: Callable[[Answer, Answer], bool]
) -> bool:
    """Whether each gold can be given an answer of its own, by augmenting paths.

    The first that fits may not be the right one: both 0.33 and 1/3 are right for the gold 0.33.
    """
    fits = [[same(gold, answer) for answer in answers] for gold in golds]
    given: dict[int, int] = {}  # the gold of each answer

    def assign(gold: int, tried: set[int]) -> bool:
        for answer, right in enumerate(fits[gold]):
            if right and answer not in tried:
                tried.add(answer)
                if answer not in given or assign(given[answer], tried):
                    given[answer] = gold
                    return True
        return False

    return len(golds) == len(answers) and all(assign(i, set()) for i in range(len(golds)))


# Equations and inequalities.


def _equal_relations(gold: Relation, answer: Relation, algebra: Algebra) -> bool:
    if len(gold.signs) != len(answer.signs):
        return False
    if _sides_equal(gold, answer, algebra) or _sides_equal(gold, _mirror(answer), algebra):
        return True
    if len(gold.signs) != 1:
        return False
    for turned in (answer, _mirror(answer)):
        differences = _difference(gold), _difference(turned)
        if gold.signs == turned.signs and None not in differences:
            ordered = gold.signs[0] not in ("=", "ne")
            return algebra.proportional(*differences, ordered)
    return False


def _sides_equal(gold: Relation, answer: Relation, algebra: Algebra) -> bool:
    if gold.signs != answer.signs:
        return False
    try:
        return all(
            _equal_values(_value(g), _value(a), algebra) for g, a in zip(gold.sides, answer.sides)
        )
    except Undecided:
        if len(gold.signs) == 1 and gold.signs[0] != "in":
            return False  # the difference of the sides decides
        raise


def _mirror(relation: Relation) -> Relation:
    if not set(relation.signs) <= _MIRRORED.keys():
        return relation
    signs = tuple(_MIRRORED[sign] for sign in relation.signs[::-1])
    return Relation(relation.sides[::-1], signs, "")


def _difference(relation: Relation) -> Expression | None:
    """The left side minus the right side, without units."""
    # Words on the first side are the subject.
    left, right = (
        Quantity(Name(side.text)) if isinstance(side, Words) and relation.subject else side
        for side in relation.sides
    )
    if not isinstance(left, Quantity) or not isinstance(right, Quantity):
        return None
    return Apply("+", (left.value, Apply("-", (right.value,))))
