"""Which of the prompts at hand a step takes: those that groups of rollouts can learn from.

A group whose rollouts are all right, or all wrong, says nothing about accuracy.  How often groups
are mixed depends on how difficult their prompts are, so that is kept for each difficulty, and
prompts are drawn in proportion to it.  The prompts' order in the data stays what it was; those not
taken are gone until the next epoch.
"""

import numpy as np

Mixed = dict[str, float]  # difficulty -> share of its groups that were mixed, a running mean

_DECAY = 0.9  # of the running means, a step
_LEAST = 0.05  # weight of a difficulty whose groups are never mixed: it is looked at now and then


def choose(difficulty: np.ndarray, take: int, mixed: Mixed, rng: np.random.Generator) -> np.ndarray:
    """Positions of the prompts taken, in their order.

    Args:
      difficulty: [C], of the prompts at hand.
      take: how many; C or fewer.
      mixed: of the steps before; a difficulty not seen yet counts as always mixed.

    Returns:
      [take], drawn without replacement in proportion to the weights.
    """
    weights = np.array([max(mixed.get(_key(d), 1.0), _LEAST) for d in difficulty])
    # The largest of log w + Gumbel noise are such a draw (Efraimidis and Spirakis 2006).
    noisy = np.log(weights) + rng.gumbel(size=weights.size)
    return np.sort(np.argsort(-noisy, kind="stable")[:take])


def learned(mixed: Mixed, difficulty: np.ndarray, correct: np.ndarray) -> Mixed:
    """The running means after a step.

    Args:
      difficulty: [B / G], of each group's prompt.
      correct: [B / G, G] bool.
    """
    now = are_mixed(correct)
    means = dict(mixed)
    for value in np.unique(difficulty):
        key, seen = _key(value), float(now[difficulty == value].mean())
        means[key] = _DECAY * means.get(key, 1.0) + (1 - _DECAY) * seen
    return means


def are_mixed(correct: np.ndarray) -> np.ndarray:
    """Which groups have both right and wrong rollouts: [B / G, G] bool -> [B / G] bool."""
    return correct.any(axis=1) & ~correct.all(axis=1)


def _key(difficulty: float) -> str:
    return f"{float(difficulty):g}"  # JSON's keys are strings
