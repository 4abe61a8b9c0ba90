"""Whether mathematical answers are equal: by their forms and numbers first, then by algebra.

Algebra runs in worker processes that are killed at a time limit (see `workers`).  A comparison that
was killed is logged and counts as not equal.
"""

import os
from collections.abc import Sequence

from absl import logging

from diffpo_jax.tasks.answers import latex, workers

_REMEMBERED = 65_536  # verdicts kept, since rollouts of a group often give the same answer


class Verifier:
    """Compares answers.  Keeps its workers, and the verdicts that needed algebra.

    Attributes:
      killed: the number of pairs so far without a verdict, because their worker hung or died.
    """

    def __init__(
        self,
        *,
        limit_s: float = 5.0,
        processes: int | None = None,
        function: str = "diffpo_jax.tasks.answers.symbolic:equal",
    ):
        """Starts nothing yet.  The first pair that needs algebra starts workers.

        Args:
          limit_s: time limit for one pair, in seconds.
          processes: the number of workers, None for one per available core, at most 16.
          function: the comparison (gold, answer) -> bool as "module:name".
        """
        cores = len(os.sched_getaffinity(0))
        self._pool = workers.Pool(function, workers=processes or min(cores, 16), limit_s=limit_s)
        self._limit_s = limit_s
        self._known: dict[tuple[str, str], bool | None] = {}
        self.killed = 0

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """The verdict on each (gold, answer), or None if its worker hung or died."""
        plain = [latex.compare(gold, answer) for gold, answer in pairs]
        undecided = dict.fromkeys(p for p, v in zip(pairs, plain) if v is None)
        new = [pair for pair in undecided if pair not in self._known]
        for pair, outcome in zip(new, self._pool.map(new)):
            verdict = bool(outcome.value)
            if outcome.failure in ("timeout", "died"):
                verdict = None
                self.killed += 1
                logging.warning(
                    "Cannot compare %r with %r: its worker %s. The answer counts as wrong.",
                    *(text[:200] for text in reversed(pair)),
                    f"took over {self._limit_s} s" if outcome.failure == "timeout" else "died",
                )
            self._known[pair] = verdict
        verdicts = [
            self._known[pair] if value is None else value for pair, value in zip(pairs, plain)
        ]
        while len(self._known) > _REMEMBERED:  # the oldest first
            self._known.pop(next(iter(self._known)))
        return verdicts

    def close(self) -> None:
        """Kills the workers.  The next pair that needs algebra starts new ones."""
        self._pool.close()
