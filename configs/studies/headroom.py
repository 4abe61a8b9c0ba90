"""Whether a learned sampler can pay on a task and a base model, and what it gained.

    python -m diffpo_jax.study --config=configs/studies/headroom.py --workdir=runs/headroom

Compares at equal calls, on one frozen base: fixed rules; a threshold for each prompt, predicted
from what a head that reads the prompt sees, and in hindsight; and a head that sees each state,
trained by RL.

Hardware: one of two CPU cores (AMD EPYC), the other in use.
Time: 15 minutes after the base; RL of the head 8, thresholds of 5,120 prompts 5.
Score: docs/results.md.

Presets are those of configs/sudoku.py, as in --config=configs/studies/headroom.py:smoke ; with
`countdown` among them, those of configs/countdown.py.
--config.run.init_from=runs/sudoku takes the base model of a finished run.
"""

import ml_collections

from diffpo_jax.config import presets


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study of a task's preset."""
    config = presets.measurement(__file__, preset, "state")
    config.headroom.measured = True
    return config
