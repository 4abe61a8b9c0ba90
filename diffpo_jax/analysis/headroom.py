"""How much a commit rule could gain if each prompt had the dial that suits it."""

from collections.abc import Sequence

import numpy as np

from diffpo_jax.analysis.bootstrap import Outcomes

# Prices of a call in units of a right answer, from "calls are nearly free" to "a call is worth a
# tenth of an answer".
PRICES = (0.0001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.2)


def best_dial_per_prompt(
    points: Sequence[Outcomes], prices: Sequence[float] = PRICES
) -> list[dict[str, float]]:
    """The frontier of a choice among dials for each prompt, made with its outcomes in view.

    This is more than a head that reads the prompt alone can reach: it chooses before the answer is
    written, and some answers come out right by luck.

    Args:
      points: the outcomes of every dial, on the same prompts.

    Returns:
      {"price", "accuracy", "nfe"} for each price.
    """
    return as_frontier(choose_dials(points, points, prices), prices)


def choose_dials(
    expected: Sequence[Outcomes], points: Sequence[Outcomes], prices: Sequence[float] = PRICES
) -> list[Outcomes]:
    """What comes of a choice among dials for each prompt, at each price of a call.

    A prompt takes the dial with the largest expected share of right answers minus the price of the
    expected calls.

    Args:
      expected: of every dial, on the same prompts.
      points: what becomes of every dial on them.
    """
    share, calls = (np.stack([getattr(p, name) for p in expected]) for name in ("correct", "nfe"))
    correct, nfe = (np.stack([getattr(p, name) for p in points]) for name in ("correct", "nfe"))
    rows, result = np.arange(correct.shape[1]), []
    for price in prices:
        best = np.argmax(share - price * calls, axis=0)
        result.append(Outcomes(correct[best, rows], nfe[best, rows], points[0].prompt))
    return result


def as_frontier(
    chosen: Sequence[Outcomes], prices: Sequence[float] = PRICES
) -> list[dict[str, float]]:
    """{"price", "accuracy", "nfe"} of what `choose_dials` returns."""
    return [
        {"price": price, "accuracy": float(p.correct.mean()), "nfe": float(p.nfe.mean())}
        for price, p in zip(prices, chosen)
    ]
