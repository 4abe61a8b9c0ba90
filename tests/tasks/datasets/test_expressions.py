import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.tasks.answers import arithmetic
from diffpo_jax.tasks.datasets import expressions

NUMBERS = st.lists(st.integers(1, 20), min_size=1, max_size=5)


def join(*items):
    """join(1, "+", 2) as an Expression; items may be Expressions."""
    left, sign, right = (expressions.number(x) if isinstance(x, int) else x for x in items)
    return expressions.combine(left, sign, right)


@pytest.mark.parametrize(
    ("expression", "text", "value"),
    [
        (join(1, "+", join(2, "+", 3)), "1+2+3", 6),
        (join(1, "-", join(2, "-", 3)), "1-(2-3)", 2),
        (join(join(1, "-", 2), "-", 3), "1-2-3", -4),
        (join(2, "*", join(3, "/", 4)), "2*3/4", Fraction(3, 2)),
        (join(8, "/", join(4, "/", 2)), "8/(4/2)", 4),
        (join(join(8, "/", 4), "/", 2), "8/4/2", 1),
        (join(3, "*", join(5, "-", 2)), "3*(5-2)", 9),
        (join(join(3, "*", 5), "-", 2), "3*5-2", 13),
        (join(join(1, "+", 2), "*", join(3, "+", 4)), "(1+2)*(3+4)", 21),
        (join(1, "/", join(2, "-", 2)), None, None),
    ],
)
def test_brackets_by_hand(expression, text, value):
    assert (expression and expression[:2]) == (text and (value, text))


@given(NUMBERS, st.data())
def test_drawn_expressions_have_the_value_of_their_text(numbers, data):
    unit = st.floats(0, 1, exclude_max=True)
    picks = data.draw(st.lists(st.tuples(unit, unit, unit), min_size=4, max_size=4))
    drawn = expressions.draw(numbers, picks[: len(numbers) - 1])
    if drawn:
        found = arithmetic.evaluate(drawn.text)
        assert (found.value, sorted(found.numbers)) == (drawn.value, sorted(numbers))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 60))
def test_a_solution_is_found_if_there_is_one(numbers, target):
    found = expressions.solve(numbers, target)
    if found:
        value, used = arithmetic.evaluate(found)
        assert (value, sorted(used)) == (target, sorted(numbers))
    else:
        assert target not in values(tuple(numbers))


def values(numbers):
    """All values that the numbers can reach, by dividing them in two in all ways."""
    if len(numbers) == 1:
        return {Fraction(numbers[0])}
    found = set()
    for size in range(1, len(numbers)):
        for left in itertools.combinations(range(len(numbers)), size):
            right = [numbers[i] for i in range(len(numbers)) if i not in left]
            for a in values(tuple(numbers[i] for i in left)):
                for b in values(tuple(right)):
                    found |= {a + b, a - b, a * b} | ({a / b} if b else set())
    return found
