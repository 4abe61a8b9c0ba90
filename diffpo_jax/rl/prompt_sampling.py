"""Chooses the prompts of a step among candidates, by how much their groups are likely to teach.

A group whose rollouts are all right, or all wrong, teaches nothing about accuracy.  How often
groups are mixed depends on the difficulty of their prompts.  So the share of mixed groups is
tracked by difficulty, and prompts are drawn in proportion to it.  The order of the data does not
change; prompts that are not chosen come again in the next epoch.
"""

import numpy as np

Mixed = dict[str, float]  # difficulty -> share of its groups that were mixed, a running mean

_DECAY = 0.9  # of the running means, per step
_LEAST = 0.05  # weight of a difficulty whose groups are never mixed, so that it is still tried


def choose(difficulty: np.ndarray, take: int, mixed: Mixed, rng: np.random.Generator) -> np.ndarray:
    """Draws prompts without replacement, in proportion to the share of mixed groups.

    Args:
      difficulty: [C], of the candidates.
      take: how many to choose, at most C.
      mixed: from the steps before; an unknown difficulty counts as always mixed.

    Returns:
      [take], positions of the chosen candidates, ascending.
    """
    weights = np.array([max(mixed.get(_key(d), 1.0), _LEAST) for d in difficulty])
    # The largest values of log w + Gumbel noise are such a draw (Efraimidis and Spirakis 2006).
    noisy = np.log(weights) + rng.gumbel(size=weights.size)
    return np.sort(np.argsort(-noisy, kind="stable")[:take])


def observe(mixed: Mixed, difficulty: np.ndarray, correct: np.ndarray) -> Mixed:
    """Returns the running means after a step.

    Args:
      difficulty: [B / G], of each group's prompt.
      correct: [B / G, G] bool.
    """
    now = are_mixed(correct)
    means = dict(mixed)
    for value in np.unique(difficulty):
        key, share = _key(value), float(now[difficulty == value].mean())
        means[key] = _DECAY * means.get(key, 1.0) + (1 - _DECAY) * share
    return means


def are_mixed(correct: np.ndarray) -> np.ndarray:
    """Which groups have both right and wrong rollouts: [B / G, G] bool -> [B / G] bool."""
    return correct.any(axis=1) & ~correct.all(axis=1)


def _key(difficulty: float) -> str:
    return f"{float(difficulty):g}"  # keys of JSON objects are strings
