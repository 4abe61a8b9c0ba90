"""Special tokens in the text of a completion: <|eot_id|>, <|endoftext|>, <|mask|>.

Completions of this package end before the first end token, except under protocol "d1", and other
special tokens stay in them as text: without them, the digits of "1<|mask|>8" would read as 18.
Completions in other people's files may hold all of them.
"""

import re

_ANY = re.compile(r"<\|[A-Za-z0-9_]{1,40}\|>")
_ENDS = re.compile(r"<\|(?:eot_id|endoftext|end_of_text|im_end|end)\|>")


def strip(text: str) -> str:
    """The text without special tokens, as d1's training rewards read it."""
    return _ANY.sub("", text)


def before_end(text: str) -> str:
    """The text before the first token that ends it."""
    return _ENDS.split(text, maxsplit=1)[0]
