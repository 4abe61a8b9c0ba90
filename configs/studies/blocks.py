"""Block diffusion on Countdown: DiFFPO, LightningRL and TraceRL from one base.

    python -m diffpo_jax.study --config=configs/studies/blocks.py --workdir=runs/blocks

All have the same rate and two updates a batch.  The last two train the denoiser alone, at a fixed
confidence, and their frontiers are over that confidence; DiFFPO has the sampler that sees each
state, and its prices.

Hardware: one of two CPU cores (AMD EPYC), which other work shared.
Time: 8 to 13 minutes a run, after a base of 8.
Score: seed 3 alone: DiFFPO 43.6 %@2.01 and 45.1 %@2.37, LightningRL 34.1 %@2.00 and 42.1 %@3.15,
  TraceRL 16.3 %@2.00 and 41.3 %@4.01; docs/results.md, "Block diffusion".

Presets are those of configs/countdown.py; blocks is added to each.
"""

import ml_collections

from diffpo_jax.config import presets

TITLE = "Block diffusion"
ARMS = {
    "DiFFPO": "mode=joint",
    "LightningRL": "preset=lightning",
    "TraceRL": "preset=trace",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study with a preset of its task."""
    name = f"{preset},{presets.blocks.__name__}"
    return presets.comparison(
        __file__, name, title=TITLE, arms=ARMS, tasks=("countdown",), default="default"
    )
