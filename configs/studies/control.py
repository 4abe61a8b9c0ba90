"""RL against the sampler alone and against as much plain training of the base.

    python -m diffpo_jax.study --config=configs/studies/control.py --workdir=runs/control

"more demonstrations" goes on with the base's own training for about as many denoiser calls as RL
takes, a gradient counted as one call.  On Sudoku the base of the recipe is shown few answers; what
answers to all prompts would give is one more arm, the ceiling:
`"all: pretrain.steps=3600 pretrain.demonstrations.count=None
pretrain.demonstrations.difficulty=None rl.steps=0 mode=model sampler.rule=entropy_sum"`.
RL on Countdown takes the calls of 8,600 steps: `--config.grid.tasks=countdown` with such an arm.

Hardware: two CPU cores (AMD EPYC).
Time: 12 to 15 minutes a seed on one core for each control.
Score: docs/results.md.

Presets are those of configs/sudoku.py and configs/countdown.py.
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "RL and as much plain training"
# On Sudoku as many calls as RL takes, in steps of 256 rows, with the base's own 480.
ARMS = {
    "recipe": "mode=joint",
    "sampler only": "mode=sampler sampler.temperature=0.0",
    "more demonstrations": "pretrain.steps=3600 rl.steps=0 mode=model sampler.rule=entropy_sum",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study with a preset of its tasks."""
    return presets.comparison(
        __file__, preset, title=TITLE, arms=ARMS, reference="recipe", default="default"
    )
