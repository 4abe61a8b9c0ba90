"""How much a commit rule could gain if each prompt had the dial that suits it, in hindsight."""

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

    At each price a prompt takes the dial with the largest share of right answers minus the price
    of its calls.  This is more than a head that reads the prompt alone can reach: it chooses
    before the answer is written, and some answers come out right by luck.

    Args:
      points: the outcomes of every dial, on the same prompts.

    Returns:
      {"price", "accuracy", "nfe"} for each price.
    """
    correct, nfe = (np.stack([getattr(p, name) for p in points]) for name in ("correct", "nfe"))
    rows, result = np.arange(correct.shape[1]), []
    for price in prices:
        best = np.argmax(correct - price * nfe, axis=0)
        chosen = (x[best, rows].mean() for x in (correct, nfe))
        result.append({"price": price, **dict(zip(("accuracy", "nfe"), map(float, chosen)))})
    return result
