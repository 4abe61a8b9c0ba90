"""Whether two short LaTeX answers are the same, as far as no algebra is needed.

Answers are the same if they are one string after spacing and dress are removed, or if both can be
read (`math_reader`) and mean the same (`math_equality`).  Pairs such as x^2 - 1 and (x - 1)(x + 1)
are left to `algebra`.

No function raises, and every function is fast, whatever the text.
"""

import re

from diffpo_jax.tasks.answers import dress, exact, math_equality, math_reader, units
from diffpo_jax.tasks.answers.math_tree import Answer, Collection, NotUnderstood, Words

_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle)(?![A-Za-z])")
_COMMANDS = re.compile(r"\\(?:text(?:bf|rm|it|normal)?|math(?:rm|bf|it)|mbox)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\s+")
_ONE_IN_BRACES = re.compile(r"([_^])\{([^{}\\])\}")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
# Space that is no mere spacing: it ends a command's name, or keeps two numbers apart.
_SPACE = re.compile(r"(?<=[0-9]) (?=[0-9])|(\\[A-Za-z]+) (?=[A-Za-z])")


def compare(gold: str, answer: str) -> bool | None:
    """Whether both answers are the same (True) or different (False), or None: algebra decides."""
    if not answer.strip() or len(answer) > math_reader.LONGEST:
        return False
    if normalise(gold) == normalise(answer):
        return True
    try:
        return _compare_trees(gold, answer)
    except NotUnderstood:
        # 3:45 p.m. and June 20 are no mathematics.
        return _is_phrase(gold) and _phrase(gold) == _phrase(answer)
    except exact.Undecided:
        return None


def read_both(gold: str, answer: str) -> tuple[Answer, Answer]:
    """The trees of both.  Raises `NotUnderstood`.

    Of the answer to a list, 100,200 is a list too, and to words, No is a word.
    """
    tree = math_reader.read(gold)
    if isinstance(tree, Words):
        return tree, Words(units.plain_words(_without_commands(answer)))
    other = math_reader.read(answer)
    if isinstance(other, Words) and re.fullmatch("[A-Za-z ]{2,}", dress.remove(gold)):
        return Words(units.plain_words(dress.remove(gold))), other
    if isinstance(tree, Collection) and not isinstance(other, Collection):
        other = math_reader.read(answer, thousands=False)
    return tree, other


def _compare_trees(gold: str, answer: str) -> bool:
    return math_equality.equal(*read_both(gold, answer), exact.Exact())


def _without_commands(text: str) -> str:
    return _COMMANDS.sub(r"\1", dress.remove(text))


def _phrase(text: str) -> str:
    return re.sub(r"[\s.~]+", "", units.plain_words(_without_commands(text)))


def _is_phrase(text: str) -> bool:
    """Whether a text is words and numbers, without mathematics."""
    bare = _without_commands(text)
    return bool(
        re.fullmatch(r"[A-Za-z0-9:,.'\s~-]+", bare) and re.search("[A-Za-z]{2}|[a-z][.]", bare)
    )


def normalise(text: str) -> str:
    """The text without dress and spacing."""
    text = _FRACTION.sub(r"\\frac", _SIZES.sub(" ", dress.remove(text)))
    text = _ONE_IN_BRACES.sub(r"\1\2", text)
    text = re.sub(" +", " ", _SPACING.sub(" ", text)).strip()
    return _SPACE.sub(r"\1\0", text).replace(" ", "").replace("\0", " ")
