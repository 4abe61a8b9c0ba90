"""Figure 1 of the paper: how accurate each method ends on each task, and in how many calls.

    python -m diffpo_jax.study --config=configs/studies/figure1.py --workdir=runs/figure1

Presets are those of configs/sudoku.py and configs/countdown.py; "study" where none is given.
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
    """The study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="d1")
