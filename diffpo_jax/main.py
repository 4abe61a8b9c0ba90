"""Runs an experiment.

    python -m diffpo_jax.main --config=configs/sudoku.py --workdir=runs/sudoku
    python -m diffpo_jax.main --config=configs/sudoku.py:smoke --config.method=d1 --workdir=...

`--config.section.field=value` sets any field of the configuration (docs/config.md).  The same
command again resumes the run, and so does --workdir alone: the configuration is then the run's own.
A finished run stays as it is; with other settings of the evaluation the command evaluates it again
and writes to WORKDIR/evaluations/NAME.  On several hosts, run the same command on each; outside TPU
slices and Slurm add --coordinator, --num_processes and --process_id.  This file has the flags only;
the run is `run.experiment.run`.

Exit status: 0 for success; 2 for a mistake, explained in one line on standard error; 75 if SIGTERM
or Ctrl-C stopped the run while it trained.  The step is saved then, and the same command resumes
there.
"""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from diffpo_jax.config import command
from diffpo_jax.distributed import join_flags
from diffpo_jax.run import early

config_flags.DEFINE_config_file(
    "config",
    None,
    "The experiment, configs/NAME.py[:preset]; by default that of the workdir's run.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run, for everything it writes.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Remove the run that is in the workdir first.")
_BASE_ONLY = flags.DEFINE_bool(
    "base_only", False, "Stop after the base model, for --config.init_from."
)
_VERBOSE = flags.DEFINE_bool("verbose", False, "Also print every parameter's shape and sharding.")


def main(argv: Sequence[str]) -> None:
    config = command.read_config(argv, ("config", "workdir"), __doc__.splitlines()[2].strip())
    if join_flags.is_alone():  # several processes check together, so that all of them end
        early.check_run(config, _WORKDIR.value, overwrite=_OVERWRITE.value)
    # Imported after these checks, because importing jax takes seconds.
    from diffpo_jax.distributed import chips, hosts
    from diffpo_jax.run import experiment
    from diffpo_jax.system import compilation

    compilation.enable_cache()
    join_flags.join()
    with hosts.leaving_in_time():
        chips.check_devices()
        experiment.run(
            config,
            _WORKDIR.value,
            overwrite=_OVERWRITE.value,
            base_only=_BASE_ONLY.value,
            verbose=_VERBOSE.value,
        )


if __name__ == "__main__":
    command.run(main, run_flag="workdir", outlives_readers=True)
