"""Whether mathematical answers are equal: by string rules and numbers first, then by algebra.

Algebra runs in processes that are killed at a limit (see `workers`).  An item that was killed
counts as not equal, and is logged; `Verifier.killed` counts them.
"""

import os
from collections.abc import Sequence

from absl import logging

from diffpo_jax.tasks.answers import latex, workers

_REMEMBERED = 65_536  # verdicts kept: rollouts of a group often give the same answer


class Verifier:
    """Compares answers; keeps its workers and the verdicts that took algebra."""

    def __init__(
        self,
        *,
        limit_s: float = 5.0,
        processes: int | None = None,
        function: str = "diffpo_jax.tasks.answers.symbolic:equal",
    ):
        """Starts nothing: the first pair that needs algebra does.

        Args:
          limit_s: seconds of algebra a pair may take before its worker is killed.
          processes: how many workers; None: one for each core we may use, at most 16.
          function: what decides, "module:name"; takes gold and answer.
        """
        cores = len(os.sched_getaffinity(0))
        self._pool = workers.Pool(function, workers=processes or min(cores, 16), limit_s=limit_s)
        self._limit_s = limit_s
        self._known: dict[tuple[str, str], bool | None] = {}
        self.killed = 0  # pairs without a verdict so far: their worker hung, or died

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """A verdict for each (gold, answer), None where the algebra was killed.  Never raises."""
        plain = [latex.same(gold, answer) for gold, answer in pairs]
        open_pairs = dict.fromkeys(p for p, v in zip(pairs, plain) if v is None)
        asked = [pair for pair in open_pairs if pair not in self._known]
        for pair, outcome in zip(asked, self._pool.map(asked)):
            verdict = bool(outcome.value)
            if outcome.failure in ("timeout", "died"):
                verdict = None
                self.killed += 1
                logging.warning(
                    "no verdict on %r against %r, which counts as wrong: its process %s",
                    *(text[:200] for text in reversed(pair)),
                    f"took over {self._limit_s} s" if outcome.failure == "timeout" else "died",
                )
            open_pairs[pair] = self._known[pair] = verdict
        verdicts = [
            self._known[pair] if value is None else value for pair, value in zip(pairs, plain)
        ]
        while len(self._known) > _REMEMBERED:  # the oldest first
            self._known.pop(next(iter(self._known)))
        return verdicts

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()
