"""The recipe with its parts taken away or changed, one at a time.

    python -m diffpo_jax.study --config=configs/studies/recipe.py --workdir=runs/recipe

Presets are those of configs/sudoku.py and configs/countdown.py; "study" where none is given.
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
    """The study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="recipe")
