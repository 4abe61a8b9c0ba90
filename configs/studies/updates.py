"""Updates on each batch of rollouts, from 1 to 8, for five likelihoods.

    python -m diffpo_jax.study --config=configs/studies/updates.py --workdir=runs/updates

The more updates, the further the policy is from the one that made the rollouts.

Hardware: two CPU cores (AMD EPYC), preset study.
Time: not recorded; 120 runs, after 6 base models.
Score: not recorded.

Presets are those of configs/sudoku.py and configs/countdown.py; the default is "study".
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "Updates per batch of rollouts"
METHODS = {
    "d1": "method=d1",
    "d1 with weights": "method=d1_is",
    "2-MF": "method=diffpo_no_is",
    "2-MF with weights": "method=diffpo",
    "exact": "method=diffpo_no_is rl.likelihood.anchors=all",
}
ARMS = {
    f"{label}, {updates}": f"{fields} rl.inner_updates={updates}"
    for label, fields in METHODS.items()
    for updates in (1, 2, 4, 8)
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="2-MF, 2")
