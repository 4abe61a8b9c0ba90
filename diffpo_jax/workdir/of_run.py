"""A run's own configuration as a config file: --config=of_run.py:WORKDIR.

`config.command` gives it in place of a --config that is missing, so that flags --config.FIELD=VALUE
change the run's configuration.
"""

import pathlib

import ml_collections

from diffpo_jax.config import convert, resolve
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import layout


def get_config(workdir: str) -> ml_collections.ConfigDict:
    """Returns the configuration of the run in a workdir.

    Raises:
      UserError: the workdir holds no run.
    """
    paths = layout.Workdir(pathlib.Path(workdir))
    if not paths.config.exists():
        raise UserError(
            f"--config is missing, and {workdir} holds no run to take it from: there is no "
            f"{paths.config.name}."
        )
    return convert.as_config_dict(resolve.unresolve(layout.read_config(paths)))
