"""Importance weights: truncated, normalised, per sequence, left out, and added to d1.

    python -m diffpo_jax.study --config=configs/studies/is_ablation.py --workdir=runs/is_ablation

Hardware: two CPU cores (AMD EPYC), preset study.
Time: 1.5 to 3 minutes per run on one core, 60 runs, after 6 base models.
Score: C = 2 against none at equal calls, in points: Sudoku -6.9 (-8.0, -5.7), Countdown
  -0.9 (-2.1, +0.4); docs/results.md, "Importance weights".

Presets are those of configs/sudoku.py and configs/countdown.py; the default is "study".
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
    "inverted": "method=diffpo rl.objective.weights=inverted",
    "d1": "method=d1",
    "d1 with weights": "method=d1_is",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="none")
