"""Runs a study: a measurement of the paper's, or one its readers missed.

    python -m diffpo_jax.study --config=configs/studies/figure2.py --workdir=runs/figure2

The run that is measured is `config.run`, an ordinary configuration whose fields are set like
--config.run.seed=1 .  The same command again resumes it.  What is found is printed and left in
WORKDIR/report as JSON, CSV, PNG and SVG.
"""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from diffpo_jax import cli, config_io
from diffpo_jax.config import StudyConfig

config_flags.DEFINE_config_file("config", None, "The study, configs/studies/NAME.py[:preset].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the study; holds all it writes.")


def main(argv: Sequence[str]) -> None:
    build = config_io.study_from_config_dict
    example = __doc__.splitlines()[2].strip()
    config = cli.config(argv, ("config", "workdir"), example, build=build)
    # Imported here, after the flags are known to be right: jax takes seconds.
    from diffpo_jax import compilation
    from diffpo_jax.studies import figure2

    compilation.keep_programs()
    figure2.run(config, _WORKDIR.value)


if __name__ == "__main__":
    cli.entry(main, StudyConfig)
