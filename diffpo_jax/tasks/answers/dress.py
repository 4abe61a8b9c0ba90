r"""Takes off an answer what only presents it: boxes, dollars, \text{...}, markdown, a full stop.

    **42**   `42`   $42$   \(42\)   \boxed{42}   \text{42}   {42}   42.   "42"   **Answer: 42**
    \boxed{42, without its brace

What is inside is left as it is.  All tasks read answers through `remove`, after `extract` has found
their place and before their own grammar.  No function raises, and every function takes time linear
in the text, whatever the text.
"""

import re

_LAYERS = 12  # of dress, one around the other; more stay on
_PAIRS = (
    ("```", "```"),
    ("**", "**"),
    ("__", "__"),
    ("``", "``"),
    ("`", "`"),
    ("*", "*"),
    ("'", "'"),
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ('"', '"'),
    ("“", "”"),
)
_COMMAND = re.compile(
    r"\\(?:boxed|fbox|text(?:bf|rm|it|normal)?|math(?:rm|bf|it|sf)|mbox|underline)\s*+\{|\{"
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace opens and closes nothing
_WORDS_BEFORE = r"(?:(?:so|the|final|my) )*(?:\*\*)?answer(?:\*\*)?(?: is\s*[:=]?|\s*[:=])(?:\*\*)?"
_LEAD = re.compile(
    rf"(?:\*\*)?{_WORDS_BEFORE}\s*|\\text\{{\s*{_WORDS_BEFORE}\s*\}}\s*|=\s*"
    r"|\\displaystyle(?![A-Za-z])",
    re.IGNORECASE,
)
_STOP = re.compile(r"(?<![.\s])\s*\.$")


def remove(text: str, commands: bool = True) -> str:
    r"""The answer without its dress (see the module's docstring).

    Args:
      commands: whether \text{...} and the like are taken off, and not only boxes.
    """
    for _ in range(_LAYERS):
        bare = _layer(text.strip(), commands)
        if bare == text:
            break
        text = bare
    return text


def _layer(text: str, commands: bool) -> str:
    """The text without its outermost layer of dress, or the text."""
    for start, end in _PAIRS:
        inner = text[len(start) : len(text) - len(end)]
        whole = len(text) >= len(start) + len(end) and text == f"{start}{inner}{end}"
        # "$5$ or $6$" is two answers, and an escaped dollar is a currency.
        plain = inner.replace("\\$", "")
        if whole and start not in plain and end not in plain and not inner.endswith("\\"):
            return inner.strip()
    opened = _COMMAND.match(text)
    if opened and (commands or "box" in opened[0]):
        end = closing_brace(text, opened.end())
        if end == len(text) - 1 or (end is None and "boxed" in opened[0]):
            return text[opened.end() : end].strip()
    if lead := _LEAD.match(text):
        return text[lead.end() :]
    return _STOP.sub("", text)


def closing_brace(text: str, start: int) -> int | None:
    """The place of the brace that closes the one opened before `start`, or None."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return brace.start()
    return None
