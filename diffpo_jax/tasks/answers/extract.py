r"""Finds the answer in a completion: between tags, in a LaTeX box, or all of it.

A mark that holds nothing is no mark: in "\boxed{5}. The answer is in \boxed{}." the answer is 5.

No function raises, and every function takes time linear in the text, whatever the text.
"""

import re

from diffpo_jax.tasks.answers import dress

_TAG = re.compile("<(/?)answer>")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_PIECE = re.compile(r"\\[A-Za-z]+\s*+|\\.|[^\s$\\]", re.DOTALL)  # of a box without braces
_PUNCTUATION = re.compile(r"[.,;:!?]+$")
# What an answer may not consist of alone.
_NOTHING = re.compile(r"\\(?:text|boxed|fbox|mathrm|mbox)\s*(?=\{)|\\[,;:! ()\[\]]|[\s{}~$*`.]")
_TRIES = 8  # boxes that are not closed; each makes the rest of the text be read once more


def last_tag(text: str) -> str | None:
    """The text of the last closed <answer>...</answer> that holds any, stripped, or None.

    A pair is an opening tag and the nearest closing tag, with no opening tag between them: of
    nested pairs the innermost counts.
    """
    answer, opened = None, None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            opened = tag.end()
        elif opened is not None:
            inside = text[opened : tag.start()].strip()
            answer, opened = inside if _holds_anything(inside) else answer, None
    return answer


def last_boxed(text: str) -> str | None:
    r"""The contents of the last closed \boxed{...} or \fbox{...} that has any, stripped, or None.

    Braces are matched; escaped ones (\{) are text.  Of nested boxes the inner one is the last.  A
    box without braces, \boxed5 or \boxed\frac{1}{2}, reaches to the next space, dollar or line.
    """
    open_boxes = 0
    for box in reversed(list(_BOX.finditer(text))):
        start = box.end()
        if text.startswith("{", start):
            end = dress.closing_brace(text, start + 1)
            answer = text[start + 1 : end].strip() if end is not None else ""
            open_boxes += end is None
        else:
            answer = _without_braces(text, start)
        if _holds_anything(answer):
            return answer
        if open_boxes == _TRIES:
            break
    return None


def _holds_anything(answer: str) -> bool:
    return bool(_NOTHING.sub("", answer))


def _without_braces(text: str, start: int) -> str:
    """What a box without braces holds: up to a space, a dollar, or the end of the formula."""
    position = start
    while position < len(text):
        if text[position] == "{":
            end = dress.closing_brace(text, position + 1)
            if end is None:
                return ""
            position = end + 1
            continue
        piece = _PIECE.match(text, position)
        if piece is None or piece[0] in (r"\)", r"\]", "}", "<"):
            break
        position = piece.end()
    answer = _PUNCTUATION.sub("", text[start:position].strip())
    return "" if re.match("[A-Za-z]{2}", answer) else answer  # "\boxed as I was asked"


def read(text: str, kind: str) -> str | None:
    """The answer of a completion by the protocol "default", stripped, or None.

    Args:
      kind: `config.task.prompt.answer`.  "text": the whole text; "tags": the last answer tag, or
        the last box in it, or else the last box; "boxed": the last box, or else the last answer
        tag.
    """
    if kind == "text":
        return text.strip() or None
    tag = last_tag(text)
    if kind == "boxed" or tag is None:
        return last_boxed(text) or tag
    return last_boxed(tag) or tag


def mark(answer: str, kind: str) -> str:
    """A completion with only the answer, marked such that `read` finds it."""
    if kind == "tags":
        return f"<answer>{answer}</answer>"
    return rf"\boxed{{{answer}}}" if kind == "boxed" else answer


def is_marked(text: str, kind: str) -> bool:
    """Whether a completion marks an answer, which is not empty, as `kind` asks."""
    return bool({"text": str.strip, "tags": last_tag, "boxed": last_boxed}[kind](text))
