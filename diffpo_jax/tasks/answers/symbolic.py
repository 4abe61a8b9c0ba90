"""Equality by algebra, with math-verify.  It may never return: only workers run it.

It is a module of its own because math-verify takes seconds to import: workers import it before
their time limit starts, and the main process never does.
"""

import logging

import math_verify

# math-verify's own time limits work only on the main thread, and not always, so they are off: the
# pool kills the worker.  math-verify warns that they are off.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def equal(gold: str, answer: str) -> bool:
    """Whether two LaTeX answers are equal by math-verify."""
    a, b = (math_verify.parse(f"${text}$", parsing_timeout=None) for text in (gold, answer))
    return bool(a and b) and math_verify.verify(a, b, timeout_seconds=None)


equal("x+1", "1+x")  # the first comparison takes seconds, which are no part of an answer's time
