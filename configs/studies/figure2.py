"""Figure 2 of the paper: KL of the surrogates with K anchors by call, on a base model.

    python -m diffpo_jax.study --config=configs/studies/figure2.py --workdir=runs/figure2

Hardware: CPU.
Time: a quarter of a minute, with the base of a finished run.
Score: KL of a sequence in nats for K = 1, 2, 4, 16: Sudoku 6.3, 3.3, 1.5, 0.20; Countdown 5.1, 3.7,
  2.3, 0.42; means of three base models (docs/results.md).

Presets are those of configs/sudoku.py, as in --config=configs/studies/figure2.py:smoke ; with
`countdown` among them, those of configs/countdown.py.
--config.run.init_from=runs/sudoku measures the base model of a finished run.
"""

import ml_collections

from diffpo_jax.config import presets


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """Returns the study of a task's preset."""
    # The paper's sampler: a base has no head that sees each state.
    return presets.measurement(__file__, preset, "prompt")
