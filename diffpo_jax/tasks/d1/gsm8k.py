r"""d1's verdicts on GSM8K answers, with its quirks (see `answers`).

The training reward is the sum of five.  The evaluation finds the answer in other places and
compares floats.  The results are those of d1; the code is ours and linear in the text.
"""

import re

from diffpo_jax.tasks import protocol
from diffpo_jax.tasks.d1 import answers
from diffpo_jax.tasks.task import Example

# The largest value of each reward.  That of the sum is as published, although soft_format and
# strict_format exclude each other.
REWARDS = {
    "d1": 4.0,
    "xmlcount": 0.5,
    "soft_format": 0.5,
    "strict_format": 0.5,
    "int": 0.5,
    "correctness": 2.0,
}

_NUMBER = re.compile(r"-?\d++\.?\d*+")
_GOLD = re.compile(r"\$?([0-9][0-9,]*+(?:\.[0-9]++)?)")
_CLOSED_THEN_OPEN = re.compile(r"</reasoning>\s*+<answer>")
_END = "\n</answer>\n"


def rewards(example: Example, completion: str, kind: str) -> dict[str, float]:
    """d1's five training rewards and their sum "d1", by name.

    The gold answer is compared as a string: as it follows the #### of the solution, with commas.
    """
    del kind
    answer = completion.split("<answer>")[-1].split("</answer>")[0].strip()
    parts = {
        "xmlcount": _xmlcount(completion),
        "soft_format": 0.5 * _is_soft(completion),
        "strict_format": 0.5 * _is_strict(completion),
        "int": 0.5 * answer.isdigit(),
        "correctness": 2.0 * (answer == example.meta["answer"]),
    }
    return {"d1": sum(parts.values()), **parts}


def evaluate(example: Example, completion: str) -> protocol.Verdict:
    """d1's evaluation: its verdict, and the text from which it reads the number.

    An answer is right if the floats are equal.  d1 finds no number in a gold answer with a minus
    sign, so every answer to it is wrong.
    """
    gold = _GOLD.match(example.meta["answer"])
    number, text = _read_number(completion)
    right = gold is not None and number == float(gold[1].replace(",", ""))
    return protocol.Verdict(right, number is not None, text)


PROTOCOL = protocol.published(rewards, evaluate)


def _read_number(completion: str) -> tuple[float | None, str | None]:
    """The number that d1's evaluation reads, and the text from which it reads it.

    The first box that is neither empty nor dots counts: all of it if it is a number, else the
    first number in it, where a comma ends a number.  Without such a number the first answer tag
    counts: all of it, or else its last number.
    """
    for text in _boxes(completion):
        if not text.strip().strip("."):
            continue
        number = _float(text)
        found = _NUMBER.search(text) if number is None else None
        if found:
            number = _float(found[0])
        if number is not None:
            return number, text
    text = answers.first_tag(completion)
    if text is None:
        return None, None
    number = _float(text)
    found = _NUMBER.findall(text) if number is None else []
    return (_float(found[-1]) if found else number), text


def _xmlcount(text: str) -> float:
    """1/8 for each of four tags that occurs exactly once, less 1/1000 per character after them.

    If no newline follows the closing tag, every character of the text counts as after it.
    """
    total = 0.125 * (text.count("<reasoning>\n") == 1)
    total += 0.125 * (text.count("\n</reasoning>\n") == 1)
    if text.count("\n<answer>\n") == 1:
        total += 0.125 - 0.001 * len(text.rpartition(_END)[2])
    if text.count("\n</answer>") == 1:
        total += 0.125 - 0.001 * (len(text.rpartition("\n</answer>")[2]) - 1)
    return total


def _is_soft(text: str) -> bool:
    """Whether the text begins with <reasoning>...</reasoning>, whitespace, <answer>...</answer>.

    Neither span may hold a newline: the dot of d1's pattern does not match one.
    """
    if not text.startswith("<reasoning>"):
        return False
    line_end = _line_end(text, 0)
    last = text.rfind("</answer>", 0, line_end)
    for opened in _CLOSED_THEN_OPEN.finditer(text, len("<reasoning>")):
        if opened.start() >= line_end:
            return False
        if opened.end() <= last:
            return True
        if opened.end() > line_end:  # there are newlines between the tags
            return text.find("</answer>", opened.end(), _line_end(text, opened.end())) >= 0
    return False


def _is_strict(text: str) -> bool:
    """Whether the text is exactly six lines: a tag, a line, two tags, a line, a tag."""
    lines = text.split("\n")
    tags = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", ""]
    # As in d1's pattern, the last newline may be followed by one more.
    return lines[:1] + lines[2:4] + lines[5:] in (tags, [*tags, ""])


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _boxes(text: str) -> list[str]:
    r"""The contents of every \boxed{...} up to its first closing brace, if on one line."""
    found, position = [], 0
    while (start := text.find("\\boxed{", position)) >= 0:
        start += len("\\boxed{")
        line_end = _line_end(text, start)
        end = text.find("}", start, line_end)
        if end >= 0:
            found.append(text[start:end])
        # If the rest of the line has no brace, no box that begins in it is closed.
        position = end + 1 if end >= 0 else line_end
    return found


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
