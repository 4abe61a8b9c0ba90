"""The number of anchors: K = 1, 2, 4, 16 and every call, at equal denoiser calls, without weights.

    python -m diffpo_jax.study --config=configs/studies/anchors.py --workdir=runs/anchors

Hardware: two CPU cores (AMD EPYC), preset study.
Time: two to five minutes per run, 15 runs per task, after 3 base models.
Score: exact against K = 2 at equal calls, in points: Sudoku -1.3 (-2.0, -0.8), Countdown
  -1.9 (-3.8, 0.0); docs/results.md, "Anchors".

A step of 512 rollouts of n calls costs 512 (n + k) calls, where k is the number of passes that the
gradient takes: the smaller of K and n.  With n = 6, as on these tasks, the numbers of steps below
cost the same within 3 %; the column `denoiser calls of RL` of the first table has the actual cost.

Presets: "sudoku" or "countdown".  For other presets of these tasks set --config.grid.tasks, and
--config.grid.arms if they change the number of steps.
"""

import ml_collections

from diffpo_jax.config import presets
from diffpo_jax.system.errors import UserError

TITLE = "Anchors at equal denoiser calls"
STEPS = {"sudoku": 60, "countdown": 120}  # with two anchors
CALLS = 6
PASSES = {"K = 1": 1, "K = 2": 2, "K = 4": 4, "K = 16": CALLS, "exact": CALLS}
ANCHORS = {"K = 1": 1, "K = 2": 2, "K = 4": 4, "K = 16": 16, "exact": "all"}


def get_config(preset: str = "sudoku") -> ml_collections.ConfigDict:
    """Returns the study of one task, "sudoku" or "countdown"."""
    if preset not in STEPS:
        raise UserError(
            f"configs/studies/anchors.py has no preset {preset!r}: use sudoku or countdown."
        )
    arms = {
        label: f"method=diffpo_no_is rl.likelihood.anchors={ANCHORS[label]} "
        f"rl.steps={round(STEPS[preset] * (CALLS + 2) / (CALLS + passes))}"
        for label, passes in PASSES.items()
    }
    return presets.comparison(
        __file__, "default", title=TITLE, arms=arms, tasks=(preset,), reference="K = 2"
    )
