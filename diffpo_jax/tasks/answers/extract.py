"""Where the answer stands in a completion: between tags, in a LaTeX box, or all of it.

Nothing here raises, and every function takes time linear in the text, whatever the text.
"""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace opens and closes nothing


def last_tag(text: str, tag: str = "answer") -> str | None:
    """The text of the last closed <tag>...</tag>, stripped; None where there is none.

    A pair is an opening tag and the nearest closing one after it with no opening tag between
    them, so the innermost of nested pairs counts.
    """
    spans = _spans(text, tag)
    return spans[-1] if spans else None


def first_tag(text: str, tag: str = "answer") -> str | None:
    """The text of the first closed <tag>...</tag>, like `last_tag`."""
    spans = _spans(text, tag)
    return spans[0] if spans else None


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{...} or \fbox{...} holds, stripped.

    Braces are matched, escaped ones (\{) are text.  Of nested boxes the inner one is the last.
    None where there is no box, or where the last one is not closed.
    """
    start = None
    for box in _BOX.finditer(text):
        start = box.end()
    if start is None:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return text[start : brace.start()].strip()
    return None


def read(text: str, kind: str) -> str | None:
    """The answer of a completion by the protocol "default".

    Args:
      kind: `config.task.prompt.answer`.  "text": all of the text; "tags": the last answer tag,
        and where there is none the last box; "boxed": the last box, else the last answer tag.

    Returns:
      The answer, stripped; None where there is none.
    """
    if kind == "text":
        return text.strip() or None
    finders = (last_tag, last_boxed) if kind == "tags" else (last_boxed, last_tag)
    found = (finder(text) for finder in finders)
    return next((answer for answer in found if answer is not None), None)


def mark(answer: str, kind: str) -> str:
    """An answer as a completion that holds nothing else: what `read` reads back."""
    if kind == "tags":
        return f"<answer>{answer}</answer>"
    return rf"\boxed{{{answer}}}" if kind == "boxed" else answer


def _spans(text: str, tag: str) -> list[str]:
    """The texts of all closed pairs of the tag, in order."""
    spans, opened = [], None
    for found in re.finditer(f"<(/?){re.escape(tag)}>", text):
        if not found[1]:
            opened = found.end()
        elif opened is not None:
            spans.append(text[opened : found.start()].strip())
            opened = None
    return spans
