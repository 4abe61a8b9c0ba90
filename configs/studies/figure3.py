"""Figure 3 of the paper: learning curves of DiFFPO, of it without weights, and of d1.

    python -m diffpo_jax.study --config=configs/studies/figure3.py --workdir=runs/figure3

Presets are those of configs/sudoku.py and configs/countdown.py; "study" where none is given.
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
    """The study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="d1")
