"""How d1 reads a Sudoku answer, quirks included (see `d1_answers`).

d1 compares with the one stored solution although a puzzle may have more, and looks at the empty
cells alone: an answer may change the clues.  Training and evaluation read differently.
"""

import re

from diffpo_jax.tasks.d1 import answers

_FENCED = re.compile(r"```([\d\s]+)```")
_ENDS = ("<|eot_id|>", "<|endoftext|>")


def reward_digits(completion: str, kind: str) -> str:
    """The digits that d1's training reward looks at; "" where it finds none.

    All digits of the last answer tag; of the whole completion where `kind`, the way answers are
    marked (`config.task.prompt.answer`), is "text".  Other characters are left out.
    """
    text = completion if kind == "text" else answers.last_tag(completion)
    return "".join(filter(str.isdigit, text or ""))


def evaluation_grid(completion: str, cells: int) -> str:
    """What d1's evaluation takes for the grid, whitespace removed; "" where there is none.

    The first of five places that holds more than blanks:
      1. digits and blanks between triple backquotes, somewhere after an answer tag;
      2. what follows the first answer tag, up to its end or an end-of-text token;
      3. what follows the first closing tag, up to an end-of-text token or the end;
      4. so many digits as there are cells, before a closing tag;
      5. the first word of so many digits.
    Characters that are no digits stay in it and take the place of cells.
    """
    opened, closed = (completion.find(tag) for tag in ("<answer>", "</answer>"))
    candidates = []
    if opened >= 0:
        inside = completion[opened + len("<answer>") :]
        candidates += [m[1] for m in _FENCED.finditer(inside)][:1]
        candidates += [text for text in [_until(inside, ("</answer>", *_ENDS))] if text is not None]
    if closed >= 0:
        rest = completion[closed + len("</answer>") :]
        shorter = _until(rest, _ENDS)
        candidates.append(rest if shorter is None else shorter)
        found = re.search(rf"(\d{{{cells}}})\s*</answer>", completion)
        candidates += [found[1]] if found else []
    found = re.search(rf"\b(\d{{{cells}}})\b", completion)
    candidates += [found[1]] if found else []
    grid = next((text for text in candidates if text.strip()), "")
    return re.sub(r"\s", "", grid)


def _until(text: str, ends: tuple[str, ...]) -> str | None:
    """The text before the first of `ends`; None where none comes."""
    found = [place for end in ends if (place := text.find(end)) >= 0]
    return text[: min(found)] if found else None
