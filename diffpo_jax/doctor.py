"""Says whether this machine, or all machines of a run, can do the work.

    python -m diffpo_jax.doctor --workdir=runs/sudoku

Checks versions, devices, arithmetic and collectives on them, other processes and the workdir, and
ends with a verdict. For several hosts, start the same command on each, with the flags that
`diffpo_jax.main` needs there. Exit status: 0 if ready, 1 if not.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from diffpo_jax.config import command
from diffpo_jax.distributed import join_flags

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory that a run would write to.")


def main(argv: Sequence[str]) -> None:
    command.require_flags(argv, (), __doc__.splitlines()[2].strip())
    from diffpo_jax.workdir import layout, provenance

    if _WORKDIR.value:
        layout.check_path(_WORKDIR.value)
    join_flags.join()
    from diffpo_jax.distributed import checkup

    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"diffpo_jax {provenance.commit()}; Python {python}, {versions}")
    findings = checkup.run_checks(pathlib.Path(_WORKDIR.value) if _WORKDIR.value else None)
    print(checkup.format_findings(findings))
    ready, sentence = checkup.verdict(findings)
    print(sentence)
    sys.exit(0 if ready else 1)


if __name__ == "__main__":
    command.run(main)
