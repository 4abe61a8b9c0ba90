"""d1's verdicts on Sudoku answers, with its quirks (see `answers`).

d1 compares the empty cells with the one stored solution, although a puzzle may have several, and
ignores the clues, which an answer may change.  Its training and its evaluation find the answer in
different places.
"""

import re
from collections.abc import Callable, Sequence

from diffpo_jax.tasks.d1 import answers
from diffpo_jax.tasks.protocol import Protocol, Verdict, keep_own
from diffpo_jax.tasks.task import Example

_FENCED = re.compile(r"```([\d\s]+)```")
_ENDS = ("<|eot_id|>", "<|endoftext|>")

# (completion, how answers are marked, number of cells) -> the digits of the cells.
Reader = Callable[[str, str, int], str]


def reward_digits(completion: str, kind: str, cells: int) -> str:
    """The digits that d1's training reward compares, or "" if there are none.

    These are all digits of the last answer tag, or of the whole completion if `kind` is "text".
    Other characters are left out.
    """
    del cells
    text = completion if kind == "text" else answers.last_tag(completion)
    return "".join(filter(str.isdigit, text or ""))


def evaluation_grid(completion: str, kind: str, cells: int) -> str:
    """The grid that d1's evaluation reads, without whitespace, or "" if there is none.

    The first of five places that holds more than whitespace:
      1. digits and whitespace between triple backquotes, somewhere after an answer tag;
      2. the text after the first answer tag, up to its end or an end-of-text token;
      3. the text after the first closing tag, up to an end-of-text token or the end;
      4. as many digits as there are cells, before a closing tag;
      5. the first word of as many digits.
    Characters that are not digits stay in it and take the place of cells.
    """
    del kind
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


def cell_accuracy(examples: Sequence[Example], grids: Sequence[str]) -> float:
    """d1's metric: right cells divided by empty cells, both summed over all examples.

    A cell is right if it equals the stored solution.  0 if no cell is empty.  (d1 reports per
    cent.)

    Args:
      grids: the grid read from each completion.  Missing cells count as empty, surplus ones are
        cut off.
    """
    counts = [_count_cells(e, g) for e, g in zip(examples, grids, strict=True)]
    right, empty = (sum(column) for column in zip(*counts)) if counts else (0, 0)
    return right / empty if empty else 0.0


def protocols(reward: str, read: Reader) -> dict[str, Protocol]:
    """The protocols by name: d1's, and one with the task's own reward, verdicts and reader."""
    return {
        "default": _protocol(reward, keep_own, read, read),
        "d1": _protocol("cell_fraction", _verdict, reward_digits, evaluation_grid, True),
    }


def _protocol(
    reward: str,
    verdict: Callable,
    in_training: Reader,
    in_evaluation: Reader,
    reads_special_tokens: bool = False,
) -> Protocol:
    """A protocol whose part `cell_fraction` and score `cell_accuracy` use these readers."""

    def parts(example: Example, completion: str, kind: str) -> dict[str, float]:
        digits = in_training(completion, kind, len(example.meta["clues"]))
        right, empty = _count_cells(example, digits)
        return {"cell_fraction": right / empty if empty else 0.0}

    def scores(examples: Sequence[Example], completions: Sequence[str], kind: str):
        pairs = zip(examples, completions, strict=True)
        grids = [in_evaluation(text, kind, len(e.meta["clues"])) for e, text in pairs]
        return {"cell_accuracy": cell_accuracy(examples, grids)}

    return Protocol(reward, parts, verdict, scores, reads_special_tokens)


def _verdict(example: Example, completion: str, own: Verdict) -> Verdict:
    """An answer is right if every empty cell equals the stored solution, and one is empty."""
    del own
    grid = evaluation_grid(completion, "", len(example.meta["clues"]))
    right, empty = _count_cells(example, grid)
    return Verdict(right == empty > 0, bool(grid), grid or None)


def _count_cells(example: Example, grid: str) -> tuple[int, int]:
    """(empty cells that equal the stored solution, empty cells)."""
    clues, solution = example.meta["clues"], example.meta["solution"]
    grid = grid[: len(clues)].ljust(len(clues), "0")
    empty = [cell for cell, clue in enumerate(clues) if clue == "0"]
    return sum(grid[cell] == solution[cell] for cell in empty), len(empty)


def _until(text: str, ends: tuple[str, ...]) -> str | None:
    """The text before the first of `ends`, or None if there is none of them."""
    found = [place for end in ends if (place := text.find(end)) >= 0]
    return text[: min(found)] if found else None
