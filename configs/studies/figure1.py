"""Figure 1 of the paper: the final accuracy of each method on each task, and its calls.

    python -m diffpo_jax.study --config=configs/studies/figure1.py --workdir=runs/figure1

Hardware: two CPU cores (AMD EPYC), preset study.
Time: 1.5 to 3 minutes per run on one core, 30 runs, after 6 base models.
Score: accuracy@calls, means of three seeds, d1 / DiFFPO joint / joint without weights: Sudoku
  78.9 %@16.0 / 82.0 %@7.3 / 85.8 %@6.5; docs/results.md and docs/studies/figure1.md have all.

Presets are those of configs/sudoku.py and configs/countdown.py; the default is "study".
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "Figure 1: final accuracy by task and method"
ARMS = {
    "d1": "mode=model method=d1",
    "DiFFPO, model only": "mode=model method=diffpo",
    "DiFFPO, joint": "method=diffpo",
    "no weights, model only": "mode=model method=diffpo_no_is",
    "no weights, joint": "method=diffpo_no_is",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="d1")
