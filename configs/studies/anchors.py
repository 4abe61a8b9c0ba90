"""The number of anchors: K = 1, 2, 4, 16 and every call, without weights.

    python -m diffpo_jax.study --config=configs/studies/anchors.py --workdir=runs/anchors

All take the same number of steps.  More anchors cost more calls in a step: the column `denoiser
calls of RL` of the first table has them.

Hardware: two CPU cores (AMD EPYC), preset study.
Time: 1.5 to 3 minutes per run on one core, K = 16 about 9, exact not recorded; 30 runs, after 6
  base models.
Score: K = 1 and 4 against K = 2 at equal calls, in points: Sudoku -0.6 and +0.2, Countdown -0.1 and
  +0.5, within the intervals; docs/results.md, "Anchors".

Presets are those of configs/sudoku.py and configs/countdown.py; the default is "study".
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "Anchors"
ANCHORS = {"K = 1": 1, "K = 2": 2, "K = 4": 4, "K = 16": 16, "exact": "all"}
ARMS = {
    label: f"method=diffpo_no_is rl.likelihood.anchors={anchors}"
    for label, anchors in ANCHORS.items()
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="K = 2")
