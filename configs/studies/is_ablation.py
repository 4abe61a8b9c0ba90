"""Importance weights: how they are truncated, normalised, left out, and added to d1.

    python -m diffpo_jax.study --config=configs/studies/is_ablation.py --workdir=runs/is_ablation

Presets are those of configs/sudoku.py and configs/countdown.py; "study" where none is given.
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "Importance weights"
ARMS = {
    "none": "method=diffpo_no_is",
    "C = 1": "method=diffpo rl.objective.truncation=1.0",
    "C = 2": "method=diffpo",
    "C = 5": "method=diffpo rl.objective.truncation=5.0",
    "C = 1000": "method=diffpo rl.objective.truncation=1000.0",
    "self-normalised": "method=diffpo rl.objective.weights=normalised",
    "a sequence's": "method=diffpo rl.objective.weights=sequence",
    "d1": "method=d1",
    "d1 with weights": "method=d1_is",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="none")
