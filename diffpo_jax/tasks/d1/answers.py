r"""How d1 finds the answer in a completion, with its quirks.

The results are those of d1 (arXiv 2504.12216, repository dllm-reasoning/d1); the code is ours and
linear in the text.  They differ from those of `tasks.answers.extract` if tags are nested (d1 takes
everything from the first opening tag), and if there is no box or an unusual one.
"""

_OPEN, _CLOSE = "<answer>", "</answer>"
_BLANK_BOX = "\\boxed "


def spans(text: str) -> list[str]:
    """The text of every <answer>...</answer>, from the first opening tag after the last pair."""
    found, position = [], 0
    while (start := text.find(_OPEN, position)) >= 0:
        end = text.find(_CLOSE, start + len(_OPEN))
        if end < 0:
            break
        found.append(text[start + len(_OPEN) : end].strip())
        position = end + len(_CLOSE)
    return found


def last_tag(text: str) -> str | None:
    """The last of `spans`, or None.  The training rewards of Sudoku and Countdown read it."""
    found = spans(text)
    return found[-1] if found else None


def first_tag(text: str) -> str | None:
    """The first of `spans`, or None.  Evaluations read it if there is no box."""
    found = spans(text)
    return found[0] if found else None


def boxed(text: str) -> str | None:
    r"""The text that d1's evaluation takes for the contents of the last box.

    - If there is a "\boxed" with a space after it: the text after the last of these, up to a "$".
    - Otherwise the last "\boxed" (or "\fbox", if there is no "\boxed") up to its balanced closing
      brace.  The command itself is dropped from a "\boxed{...}", and kept otherwise.
    - If there is neither: the whole text.

    None if the braces are never balanced; d1's code raises then.
    """
    if _BLANK_BOX in text:
        return text.split(_BLANK_BOX)[-1].split("$")[0]
    start = text.rfind("\\boxed")
    if start < 0:
        start = text.rfind("\\fbox")
    if start < 0:
        return _without_command(text)
    depth = 0
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if text[i] == "}" and depth == 0:
            return _without_command(text[start : i + 1])
    return None


def _without_command(text: str) -> str:
    box = text.startswith("\\boxed{") and text.endswith("}")
    return text[len("\\boxed{") : -1] if box else text
