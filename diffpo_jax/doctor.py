"""Says whether this machine, or all machines of a run, can do the work.

    python -m diffpo_jax.doctor --workdir=runs/sudoku

Checks versions, devices, arithmetic and collectives on them, other processes and the workdir, and
ends with a verdict. With --config, also whether the published weights that it or --model names can
predict hidden words of ordinary sentences, and if not, why:

    python -m diffpo_jax.doctor --config=configs/gsm8k.py:qwen3_0_6b --model=DIR

For several hosts, start the same command on each, with the flags that `diffpo_jax.main` needs
there. Exit status: 0 if ready, 1 if not.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from diffpo_jax.config import Config, command
from diffpo_jax.config.values import replace_field
from diffpo_jax.distributed import join_flags
from diffpo_jax.system.errors import UserError

config_flags.DEFINE_config_file(
    "config", None, "Checks the published weights of this configuration too."
)
_WEIGHTS = flags.DEFINE_string("model", None, "Published weights; default: config.model.weights.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory that a run would write to.")


def main(argv: Sequence[str]) -> None:
    example = __doc__.splitlines()[2].strip()
    config = None
    if flags.FLAGS["config"].value is None:
        command.require_flags(argv, ("config",) if _WEIGHTS.value else (), example)
    else:
        config = command.read_config(argv, (), example)
        if _WEIGHTS.value:
            config = replace_field(config, "model.weights", _WEIGHTS.value)
    from diffpo_jax.workdir import layout, provenance

    if _WORKDIR.value:
        layout.check_path(_WORKDIR.value)
    join_flags.join()
    from diffpo_jax.distributed import checkup

    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"diffpo_jax {provenance.commit()}; Python {python}, {versions}")
    findings = checkup.run_checks(pathlib.Path(_WORKDIR.value) if _WORKDIR.value else None)
    if config is not None:
        findings.append(checkup.Finding("weights", *_check_weights(config)))
    print(checkup.format_findings(findings))
    ready, sentence = checkup.verdict(findings)
    print(sentence)
    sys.exit(0 if ready else 1)


def _check_weights(config: Config) -> tuple[bool | None, str]:
    from diffpo_jax.run import weights

    try:
        found = weights.examine(config)
    except UserError as error:
        return False, str(error)
    return (found.ok, found.line()) if found else (None, "not checked: no words for sentences")


if __name__ == "__main__":
    command.run(main)
