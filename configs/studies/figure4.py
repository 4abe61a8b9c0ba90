"""Figure 4 of the paper: accuracy against calls, model and sampler trained apart and together.

    python -m diffpo_jax.study --config=configs/studies/figure4.py --workdir=runs/figure4

Presets are those of configs/sudoku.py and configs/countdown.py; "study" where none is given.
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "Figure 4: accuracy against denoiser calls"
ARMS = {
    "joint": "mode=joint",
    "model only": "mode=model",
    "sampler only": "mode=sampler",
    "model only, top_k": "mode=model sampler.rule=top_k",
    "model only, confidence": "mode=model sampler.rule=confidence",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="model only")
