"""Figure 2 on 4x4 Sudoku: KL of the surrogates with K anchors by call, on the base model.

    python -m diffpo_jax.study --config=configs/studies/figure2.py --workdir=runs/figure2

Presets are those of configs/sudoku.py, as in --config=configs/studies/figure2.py:smoke .
--config.run.init_from=runs/sudoku measures the base model of a run that is there already.
"""

import importlib.util
import pathlib

import ml_collections

from diffpo_jax import config_io
from diffpo_jax.config import StudyConfig


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The study of a preset of configs/sudoku.py."""
    config = config_io.as_config_dict(StudyConfig())
    config.run = _sudoku().get_config(preset)
    return config


def _sudoku():
    # By its path: configs/ is no package, and the command may be run from anywhere.
    path = pathlib.Path(__file__).parent.parent / "sudoku.py"
    spec = importlib.util.spec_from_file_location("sudoku_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
