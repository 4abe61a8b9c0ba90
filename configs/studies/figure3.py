"""Figure 3 of the paper: learning curves of DiFFPO with and without weights, and of d1.

    python -m diffpo_jax.study --config=configs/studies/figure3.py --workdir=runs/figure3

Hardware: two CPU cores (AMD EPYC), preset study.
Time: 1.5 to 3 minutes per run on one core, 18 runs, after 6 base models.
Score: at equal calls against d1, in points: without weights Sudoku +1.8 (+0.7, +3.0), Countdown
  +1.4 (-0.1, +2.9); with weights +1.8 (+0.7, +3.1), -0.7 (-2.0, +0.5); docs/results.md.

Presets are those of configs/sudoku.py and configs/countdown.py; the default is "study".
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "Figure 3: learning curves"
ARMS = {
    "DiFFPO": "mode=model method=diffpo",
    "no weights": "mode=model method=diffpo_no_is",
    "d1": "mode=model method=d1",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="d1")
