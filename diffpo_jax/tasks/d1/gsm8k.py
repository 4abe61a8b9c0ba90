r"""d1's verdicts on GSM8K answers, quirks included (see `d1_answers`).

Training rewards are the sum of five; evaluation reads the answer otherwise and compares floats.
What is computed follows d1; the code is ours and linear in the text.
"""

import re

from diffpo_jax.tasks.d1 import answers

REWARDS = ("xmlcount", "soft_format", "strict_format", "int", "correctness")
MOST = 4.0  # of their sum, as published; soft and strict format cannot both be had

_NUMBER = re.compile(r"-?\d++\.?\d*+")
_GOLD = re.compile(r"[0-9][0-9,]*+(?:\.[0-9]++)?")
_CLOSED_THEN_OPEN = re.compile(r"</reasoning>\s*+<answer>")
_END = "\n</answer>\n"


def rewards(completion: str, gold: str) -> dict[str, float]:
    """d1's training rewards by name.

    Args:
      gold: what stands after the #### of the solution, commas and all.
    """
    answer = completion.split("<answer>")[-1].split("</answer>")[0].strip()
    return {
        "xmlcount": _xmlcount(completion),
        "soft_format": 0.5 * _is_soft(completion),
        "strict_format": 0.5 * _is_strict(completion),
        "int": 0.5 * answer.isdigit(),
        "correctness": 2.0 * (answer == gold),
    }


def evaluated(completion: str) -> tuple[float | None, str | None]:
    """The number that d1's evaluation reads, and the text that it reads it from.

    The first box that is neither empty nor dots counts: all of it where it is a number, else the
    first number in it, where commas end numbers.  Without such a number the first answer tag
    counts, all of it or else its last number.
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


def is_right(completion: str, gold: str) -> bool:
    """d1's evaluation verdict: floats are equal.  A minus sign of the gold answer is lost."""
    number = _GOLD.search(gold)
    return number is not None and evaluated(completion)[0] == float(number[0].replace(",", ""))


def _xmlcount(text: str) -> float:
    """1/8 for each of four tags that stands exactly once, less 1/1000 a character behind them.

    Where the closing tag has no newline after it, all of the text counts as behind it.
    """
    total = 0.125 * (text.count("<reasoning>\n") == 1)
    total += 0.125 * (text.count("\n</reasoning>\n") == 1)
    if text.count("\n<answer>\n") == 1:
        total += 0.125 - 0.001 * len(text.rpartition(_END)[2])
    if text.count("\n</answer>") == 1:
        total += 0.125 - 0.001 * (len(text.rpartition("\n</answer>")[2]) - 1)
    return total


def _is_soft(text: str) -> bool:
    """Whether <reasoning>...</reasoning>, blanks and <answer>...</answer> begin the text.

    Neither span may hold a newline, as in d1's pattern a dot stands for none.
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
        if opened.end() > line_end:  # the blanks between the tags hold newlines
            return text.find("</answer>", opened.end(), _line_end(text, opened.end())) >= 0
    return False


def _is_strict(text: str) -> bool:
    """Whether the text is exactly six lines: tag, a line, tag, tag, a line, tag."""
    lines = text.split("\n")
    tags = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", ""]
    # As in d1's pattern, the last newline may be followed by one more.
    return lines[:1] + lines[2:4] + lines[5:] in (tags, [*tags, ""])


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _boxes(text: str) -> list[str]:
    r"""What \boxed{...} hold, each up to its first closing brace, on one line."""
    found, position = [], 0
    while (start := text.find("\\boxed{", position)) >= 0:
        start += len("\\boxed{")
        line_end = _line_end(text, start)
        end = text.find("}", start, line_end)
        if end >= 0:
            found.append(text[start:end])
        # Without a brace in the rest of a line, no box that begins there is closed.
        position = end + 1 if end >= 0 else line_end
    return found


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
