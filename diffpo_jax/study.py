"""Runs a study: a measurement from the paper, or one that it lacks.

    python -m diffpo_jax.study --config=configs/studies/figure3.py --workdir=runs/figure3

A study with arms (`config.grid`) trains them with several seeds and compares them. Its runs are
kept in --store, where other studies find them; finished runs are not repeated. --collect reports
the finished runs and starts none. --emit=list, slurm or xpk prints the runs as commands for a
scheduler; --collect then finds them if --store names their directory.

figure2.py and headroom.py have no arms: they measure one run, `config.run`, an ordinary
configuration whose fields are set like --config.run.seed=1 .

The same command resumes a study. Results are printed and written to WORKDIR/report.
"""

import os
import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from diffpo_jax.config import GridConfig, StudyConfig, command, convert
from diffpo_jax.run import early
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError

config_flags.DEFINE_config_file("config", None, "The study, configs/studies/NAME.py[:preset].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the study and its results.")
_STORE = flags.DEFINE_string(
    "store", None, "Directory of the runs; by default `store` beside the workdir."
)
_COLLECT = flags.DEFINE_bool("collect", False, "Report the finished runs; start none.")
_EMIT = flags.DEFINE_enum("emit", None, ["list", "slurm", "xpk"], "Print the runs as commands.")


def main(argv: Sequence[str]) -> None:
    build = convert.study_from_config_dict
    example = __doc__.splitlines()[2].strip()
    required = ("config",) if _EMIT.value and _STORE.value else ("config", "workdir")
    config = command.read_config(argv, required, example, build=build)
    if config.grid.arms:
        _compare(config.grid)
        return
    if _COLLECT.value or _EMIT.value or _STORE.value:
        raise UserError("--store, --collect and --emit are for studies with arms.")
    files.check_target(_WORKDIR.value, "--workdir", directory=True)
    early.check_inputs(config.run, pathlib.Path(_WORKDIR.value) / "run" / "data")
    # Imported after these checks, as importing jax takes seconds.
    from diffpo_jax.distributed import chips
    from diffpo_jax.studies import headroom, surrogate_kl
    from diffpo_jax.system import compilation
    from diffpo_jax.workdir import lock

    compilation.enable_cache()
    chips.check_devices()
    study = headroom if config.headroom.measured else surrogate_kl
    with lock.hold(_WORKDIR.value):
        study.run(config, _WORKDIR.value)


def _compare(config: GridConfig) -> None:
    from diffpo_jax.studies import compare, grid
    from diffpo_jax.workdir import lock

    config = grid.retitle(config, config_flags.get_override_values(flags.FLAGS["config"]))
    store = _STORE.value or os.path.join(os.path.dirname(os.path.abspath(_WORKDIR.value)), "store")
    if _EMIT.value:
        print(compare.script(config, store, _EMIT.value), end="")
        return
    with lock.hold(_WORKDIR.value):
        compare.run(config, _WORKDIR.value, store, collect=_COLLECT.value)


if __name__ == "__main__":
    command.run(main, StudyConfig, outlives_readers=True)
