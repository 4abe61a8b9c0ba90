"""Whether two short LaTeX answers are the same, as far as no algebra is needed.

Answers are the same if they are one string after spacing and dress are removed, or if both can be
read (`math_reader`) and mean the same (`math_equality`).  Pairs such as x^2 - 1 and (x - 1)(x + 1)
are left to `algebra`.

No function raises, and every function is fast, whatever the text.
"""

import re

from diffpo_jax.tasks.answers import dress, math_equality, math_reader
from diffpo_jax.tasks.answers.math_tree import NotUnderstood

_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle)(?![A-Za-z])")
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
        trees = math_reader.read(gold), math_reader.read(answer)
        return math_equality.equal(*trees, math_equality.Exact())
    except NotUnderstood:
        return False
    except math_equality.Undecided:
        return None


def normalise(text: str) -> str:
    """The text without dress and spacing."""
    text = _FRACTION.sub(r"\\frac", _SIZES.sub(" ", dress.remove(text)))
    text = _ONE_IN_BRACES.sub(r"\1\2", text)
    text = re.sub(" +", " ", _SPACING.sub(" ", text)).strip()
    return _SPACE.sub(r"\1\0", text).replace(" ", "").replace("\0", " ")
