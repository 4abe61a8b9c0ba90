"""The recipe, with one part at a time changed or removed.

    python -m diffpo_jax.study --config=configs/studies/recipe.py --workdir=runs/recipe

Hardware: two CPU cores (AMD EPYC), preset study.
Time: two to five minutes per run, 72 runs, after 6 base models.
Score: the recipe gains +0.6 points on Sudoku and +4.8 on Countdown at its learned thresholds;
  docs/recipe.md, "One part at a time, three seeds".

Presets are those of configs/sudoku.py and configs/countdown.py; the default is "study".
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "The recipe, one part at a time"
ARMS = {
    "recipe": "mode=joint",
    "constant rate": "rl.optimizer.decay=none",
    "half the rate": "rl.optimizer.denoiser_lr=5e-5",
    "twice the rate": "rl.optimizer.denoiser_lr=2e-4",
    "256 rollouts": "rl.prompts=32",
    "two updates a batch": "rl.inner_updates=2",
    "T = 1": "sampler.temperature=1.0",
    "no price of calls": "rl.speed.weight=0.0",
    "KL to the base": "rl.objective.kl=0.04",
    "weights": "method=diffpo",
    "K = 1": "method=d1",
    "sets, not thresholds": "rl.objective.selection=exact threshold.scope=call",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="recipe")
