"""Figure 2 on 4x4 Sudoku: KL of the surrogates with K anchors by call, on the base model.

    python -m diffpo_jax.study --config=configs/studies/figure2.py --workdir=runs/figure2

Presets are those of configs/sudoku.py, as in --config=configs/studies/figure2.py:smoke .
--config.run.init_from=runs/sudoku measures the base model of a run that is there already.
"""

import pathlib

import ml_collections

from diffpo_jax import config_io
from diffpo_jax.config import StudyConfig

_SUDOKU = pathlib.Path(__file__).parent.parent / "sudoku.py"


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The study of a preset of configs/sudoku.py."""
    config = config_io.as_config_dict(StudyConfig())
    config.run = config_io.dict_from_file(f"{_SUDOKU}:{preset}")
    return config
