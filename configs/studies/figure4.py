"""Figure 4 of the paper: accuracy against calls, with model and sampler trained apart or together.

    python -m diffpo_jax.study --config=configs/studies/figure4.py --workdir=runs/figure4

Hardware: two CPU cores (AMD EPYC), preset study.
Time: 1.5 to 3 minutes per run on one core, 30 runs, after 6 base models.
Score: joint against model only over the curve, in points: Sudoku +7.4 (+6.2, +8.5), Countdown
  +0.1 (-1.2, +1.4); docs/results.md.

Presets are those of configs/sudoku.py and configs/countdown.py; the default is "study".
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
    """Returns the study with a preset of its tasks."""
    return presets.comparison(__file__, preset, title=TITLE, arms=ARMS, reference="model only")
