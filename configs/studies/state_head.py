"""The sampler that sees each state, against a head that reads the prompt, and part by part.

    python -m diffpo_jax.study --config=configs/studies/state_head.py --workdir=runs/state_head

Hardware: two CPU cores (AMD EPYC), preset study.
Time: not recorded.
Score: docs/results.md.

Presets are those of configs/sudoku.py and configs/countdown.py; the default is "study,state".
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "A sampler that sees each state"
DRAWN = "sampler.temperature=0.5"  # tokens are drawn where their probabilities are trained
PROMPT = f"sampler.rule=entropy_sum {DRAWN}"
ARMS = {
    "state": "mode=sampler",
    "state, no hidden states": "state_head.hidden=False",
    "state, no clashes": "state_head.pairs=0",
    "state, no policy gradient": "rl.head.policy_weight=0.0",
    "state, no hindsight": "rl.head.hindsight_weight=0.0",
    "prompt": PROMPT,
    "model only": f"mode=model {PROMPT}",
    "state and model": f"mode=joint {DRAWN}",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study with a preset of its tasks."""
    return presets.comparison(
        __file__, preset, title=TITLE, arms=ARMS, reference="state", default="study,state"
    )
