"""Figure 2: KL of the surrogates with K anchors by call, on a base model.

    python -m diffpo_jax.study --config=configs/studies/figure2.py --workdir=runs/figure2

Presets are those of configs/sudoku.py, as in --config=configs/studies/figure2.py:smoke , or with
`countdown` among them those of configs/countdown.py.
--config.run.init_from=runs/sudoku measures the base model of a run that is there already.
"""

import pathlib

import ml_collections

from diffpo_jax.config import StudyConfig, convert

_TASKS = pathlib.Path(__file__).parent.parent


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The study of a task's preset."""
    words = preset.split(",")
    task = "countdown" if "countdown" in words else "sudoku"
    rest = ",".join(word for word in words if word != task) or "default"
    config = convert.as_config_dict(StudyConfig())
    config.run = convert.dict_from_file(f"{_TASKS / task}.py:{rest}")
    return config
