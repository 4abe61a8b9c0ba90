"""Finds the answer in a completion: between tags, in a LaTeX box, or all of it.

No function raises, and every function takes time linear in the text, whatever the text.
"""

import re

_TAG = re.compile("<(/?)answer>")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace opens and closes nothing


def last_tag(text: str) -> str | None:
    """The text of the last closed <answer>...</answer>, stripped, or None.

    A pair is an opening tag and the nearest closing tag, with no opening tag between them: of
    nested pairs the innermost counts.
    """
    answer, opened = None, None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            opened = tag.end()
        elif opened is not None:
            answer, opened = text[opened : tag.start()].strip(), None
    return answer


def last_boxed(text: str) -> str | None:
    r"""The contents of the last \boxed{...} or \fbox{...}, stripped.

    Braces are matched; escaped ones (\{) are text.  Of nested boxes the inner one is the last.
    None if there is no box, or if the last one is not closed.
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
    """The answer of a completion by the protocol "default", stripped, or None.

    Args:
      kind: `config.task.prompt.answer`.  "text": the whole text; "tags": the last answer tag, or
        else the last box; "boxed": the last box, or else the last answer tag.
    """
    if kind == "text":
        return text.strip() or None
    finders = (last_tag, last_boxed) if kind == "tags" else (last_boxed, last_tag)
    found = (finder(text) for finder in finders)
    return next((answer for answer in found if answer is not None), None)


def mark(answer: str, kind: str) -> str:
    """A completion with only the answer, marked such that `read` finds it."""
    if kind == "tags":
        return f"<answer>{answer}</answer>"
    return rf"\boxed{{{answer}}}" if kind == "boxed" else answer


def is_marked(text: str, kind: str) -> bool:
    """Whether a completion marks an answer, which is not empty, as `kind` asks."""
    return bool({"text": str.strip, "tags": last_tag, "boxed": last_boxed}[kind](text))
