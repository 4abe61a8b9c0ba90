r"""d1's verdicts on MATH answers, quirks included (see `d1_answers`).

An answer is right when it is the gold answer after some rewriting of both strings; no algebra.
What is computed follows d1 and the strings of Hendrycks et al. (arXiv 2103.03874) that it keeps;
the code is ours and linear in the text.
"""

import re

from diffpo_jax.tasks.d1 import answers

REWARDS = ("format", "correctness")
MOST = 2.75  # of their sum

_INTEGER = re.compile(r"-?[0-9]{1,100}")


def rewards(completion: str, gold: str) -> dict[str, float]:
    """d1's training rewards by name.

    Args:
      gold: the gold answer, without its box.
    """
    boxed = answers.boxed(completion)
    right = equivalent(completion if boxed is None else boxed, gold)
    # Meant to ask for a box too, d1 looks for one with a backspace in its name and never finds it.
    return {"format": 0.75 if "<answer>" in completion else 0.25, "correctness": 2.0 * right}


def evaluated(completion: str) -> str | None:
    """The answer that d1's evaluation reads: of the last box, else of the first answer tag.

    A completion without any box is its own answer, so the tag is read only where a box is empty
    or not closed.
    """
    return answers.boxed(completion) or answers.first_tag(completion)


def is_right(completion: str, gold: str) -> bool:
    """d1's evaluation verdict."""
    answer = evaluated(completion)
    return answer is not None and equivalent(answer, gold)


def equivalent(a: str, b: str) -> bool:
    """Whether two answers are one string after `rewritten`."""
    one, other = rewritten(a), rewritten(b)
    # Where the rewriting of one fails, both stay as they are.
    return a == b if one is None or other is None else one == other


def rewritten(text: str) -> str | None:
    r"""The answer as d1 compares it; None where its code fails.

    In this order: newlines and \! go, \\ becomes \, \tfrac and \dfrac become \frac; \left,
    \right, degrees and \$ go; so does everything from a "\text{ " on (a unit), and \%; a decimal
    point without a digit before it gets a 0; a beginning of up to two characters and "=" goes;
    \sqrt3 becomes \sqrt{3}; blanks go; \frac12 becomes \frac{1}{2}, so do 0.5 and 1/2.
    """
    for old, new in (
        ("\n", ""),
        (r"\!", ""),
        ("\\\\", "\\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        (r"\left", ""),
        (r"\right", ""),
        (r"^{\circ}", ""),
        (r"^\circ", ""),
        (r"\$", ""),
    ):
        text = text.replace(old, new)
    before, unit, after = text.partition(r"\text{ ")
    if unit and r"\text{ " in after:
        return None  # two units
    text = before.replace(r"\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text.startswith("."):
        text = "0" + text
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left) <= 2:
        text = right
    roots = _with_braces(text, r"\sqrt")
    if roots is None:
        return None
    text = _fractions(roots.replace(" ", ""))
    return r"\frac{1}{2}" if text == "0.5" else _slash(text)


def _with_braces(text: str, command: str) -> str | None:
    r"""\sqrt3 as \sqrt{3}; None where nothing follows the command."""
    first, *rest = text.split(command)
    for part in rest:
        if not part:
            return None
        first += command + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}")
    return first


def _fractions(text: str) -> str:
    r"""\frac12 and \frac1{2} as \frac{1}{2}; all stay as they are where one is cut short."""
    first, *rest = text.split(r"\frac")
    result = first
    for part in rest:
        if part.startswith("{"):
            result += r"\frac" + part
        elif len(part) < 2:
            return text
        elif part[1] == "{":
            result += rf"\frac{{{part[0]}}}{part[1:]}"
        else:
            result += rf"\frac{{{part[0]}}}{{{part[1]}}}{part[2:]}"
    return result


def _slash(text: str) -> str:
    r"""1/2 as \frac{1}{2}, where nothing else stands there."""
    top, slash, bottom = text.partition("/")
    whole = all(_INTEGER.fullmatch(x) and str(int(x)) == x for x in (top, bottom))
    return rf"\frac{{{top}}}{{{bottom}}}" if slash and whole else text
