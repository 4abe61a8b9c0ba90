"""How many anchors: K = 1, 2, 4, 16 and every call, at equal denoiser calls, no weights.

    python -m diffpo_jax.study --config=configs/studies/anchors.py --workdir=runs/anchors

A step of 512 rollouts of n calls costs 512 (n + k) calls, k the passes that the gradient takes: K
or, where that is less, n.  With n = 6, as these tasks have it, the steps below cost the same within
3 %; `denoiser calls of RL` in the first table says what they did cost.

Presets are those of configs/sudoku.py and configs/countdown.py; "study" where none is given. They
must leave the steps to the arms: --config.grid.arms for others.
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "Anchors at equal denoiser calls"
STEPS = {"sudoku": 60, "countdown": 120}  # with two anchors
CALLS = 6
PASSES = {"K = 1": 1, "K = 2": 2, "K = 4": 4, "K = 16": CALLS, "exact": CALLS}
ANCHORS = {"K = 1": 1, "K = 2": 2, "K = 4": 4, "K = 16": 16, "exact": "all"}


def get_config(preset: str = "sudoku") -> ml_collections.ConfigDict:
    """The study of one task, "sudoku" or "countdown"."""
    arms = {
        label: f"method=diffpo_no_is rl.likelihood.anchors={ANCHORS[label]} "
        f"rl.steps={round(STEPS[preset] * (CALLS + 2) / (CALLS + passes))}"
        for label, passes in PASSES.items()
    }
    return presets.comparison(
        __file__, "default", title=TITLE, arms=arms, tasks=(preset,), reference="K = 2"
    )
