"""Estimates from repeated completions."""

import math
from collections.abc import Sequence


def pass_at_k(verdicts: Sequence[Sequence[bool]]) -> dict[int, float]:
    """The chance that one of k completions is right, for k = 1, 2, 4 ... while all problems have k.

    With c of n completions right it is estimated without bias as 1 - C(n - c, k) / C(n, k), and
    averaged over problems (arXiv 2107.03374, equation 1).  Nothing for one completion a problem,
    where it is the accuracy.

    Args:
      verdicts: of each problem, whether its completions are right.
    """
    least = min(map(len, verdicts))
    if max(map(len, verdicts)) == 1:
        return {}
    counts = [(len(v), sum(v)) for v in verdicts]
    return {
        k: math.fsum(1 - math.comb(n - c, k) / math.comb(n, k) for n, c in counts) / len(counts)
        for k in (2**i for i in range(least.bit_length()))
    }
