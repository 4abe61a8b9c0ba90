r"""d1's verdicts on MATH answers, with its quirks (see `answers`).

An answer is right if it equals the gold answer after some rewriting of both strings, without
algebra.  The results are those of d1, and of the rules by Hendrycks et al. (arXiv 2103.03874) that
it uses; the code is ours and linear in the text.
"""

import re

from diffpo_jax.tasks import protocol
from diffpo_jax.tasks.d1 import answers
from diffpo_jax.tasks.task import Example

REWARDS = {"d1": 2.75, "format": 0.75, "correctness": 2.0}  # the largest value of each

_INTEGER = re.compile(r"-?[0-9]{1,100}")


def rewards(example: Example, completion: str, kind: str) -> dict[str, float]:
    """d1's two training rewards and their sum "d1", by name."""
    del kind
    boxed = answers.boxed(completion)
    right = is_equivalent(completion if boxed is None else boxed, example.meta["answer"])
    # d1 also looks for a box, but for one with a backspace in its name, which it never finds.
    parts = {"format": 0.75 if "<answer>" in completion else 0.25, "correctness": 2.0 * right}
    return {"d1": sum(parts.values()), **parts}


def evaluate(example: Example, completion: str) -> protocol.Verdict:
    """d1's evaluation: its verdict on the last box, or else on the first answer tag.

    A completion without any box is its own answer, so the tag is read only if a box is empty or
    not closed.
    """
    answer = answers.boxed(completion) or answers.first_tag(completion)
    right = answer is not None and is_equivalent(answer, example.meta["answer"])
    return protocol.Verdict(right, bool(answer), answer)


PROTOCOL = protocol.published(rewards, evaluate)


def is_equivalent(a: str, b: str) -> bool:
    """Whether two answers are the same string after `rewrite`."""
    one, other = rewrite(a), rewrite(b)
    # If one of them cannot be rewritten, both stay as they are.
    return a == b if one is None or other is None else one == other


def rewrite(text: str) -> str | None:
    r"""The answer as d1 compares it, or None if d1's code fails on it.

    In this order: newlines and \! are removed; \\ becomes \; \tfrac and \dfrac become \frac;
    \left, \right, degrees and \$ are removed, and so are \% and everything from "\text{ " on (a
    unit); a decimal point without a digit before it gets a 0; a beginning of up to two characters
    and "=" is removed; \sqrt3 becomes \sqrt{3}; spaces are removed; \frac12, 0.5 and 1/2 become
    \frac{1}{2}.
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
    r"""The text with \sqrt3 as \sqrt{3}, or None if nothing follows the command."""
    first, *rest = text.split(command)
    for part in rest:
        if not part:
            return None
        first += command + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}")
    return first


def _fractions(text: str) -> str:
    r"""The text with \frac12 and \frac1{2} as \frac{1}{2}, or unchanged if one is cut short."""
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
    r"""1/2 as \frac{1}{2}; any other text unchanged."""
    top, slash, bottom = text.partition("/")
    whole = all(_INTEGER.fullmatch(x) and str(int(x)) == x for x in (top, bottom))
    return rf"\frac{{{top}}}{{{bottom}}}" if slash and whole else text
