"""The recipe, with one part at a time changed or removed.

    python -m diffpo_jax.study --config=configs/studies/recipe.py --workdir=runs/recipe

Hardware: two CPU cores (AMD EPYC), preset study.
Time: not recorded; 54 runs, after 6 base models.
Score: not recorded.

Presets are those of configs/sudoku.py and configs/countdown.py; the default is "study".
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "The recipe, one part at a time"
ARMS = {
    "recipe": "mode=joint",
    "constant rate": "rl.optimizer.decay=none",
    "a third of the rate": "rl.optimizer.denoiser_lr=1e-4",
    "three times the rate": "rl.optimizer.denoiser_lr=1e-3",
    "512 rollouts": "rl.prompts=64",
    "T = 0.5": "sampler.temperature=0.5",
    "no price of calls": "rl.speed.weight=0.0",
    "KL of 0.1": "rl.objective.kl=0.1",
    "sets, not thresholds": "rl.objective.selection=exact threshold.scope=call",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="recipe")
