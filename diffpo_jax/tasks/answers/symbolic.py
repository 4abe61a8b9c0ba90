"""Equality by algebra, with math-verify.  For worker processes only: it may never come back."""

import logging

import math_verify

# Its own time limits work on the main thread only, and not always; ours kill the process.  It
# warns of limits that are switched off.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def equal(gold: str, answer: str) -> bool:
    """Whether math-verify finds two LaTeX answers equal."""
    a, b = (math_verify.parse(f"${text}$", parsing_timeout=None) for text in (gold, answer))
    return bool(a and b) and math_verify.verify(a, b, timeout_seconds=None)
