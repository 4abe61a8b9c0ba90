"""Writes a page about a run, several runs, or a study; it needs neither a model nor jax.

    python -m diffpo_jax.report --workdir=runs/sudoku

If a run is still going, the page shows its results so far. `--workdir` may be given several times:
runs that differ in the seed alone are shown as one line with a band. A study is a directory that
holds study.json. `--out=FILE.html` names the page; by default the page of one directory is its
report/index.html. The directory FILE_figures, next to the page, holds every figure as PNG and SVG
and its numbers as CSV.
"""

from collections.abc import Sequence

from absl import flags

from diffpo_jax.config import command
from diffpo_jax.system import files

_WORKDIR = flags.DEFINE_multi_string("workdir", [], "Directory of a run or a study; repeatable.")
_OUT = flags.DEFINE_string("out", None, "File of the page; default: WORKDIR/report/index.html.")


def main(argv: Sequence[str]) -> None:
    command.require_flags(argv, ("workdir",), __doc__.splitlines()[2].strip())
    # Imported after the flags are checked, because importing matplotlib takes most of a second.
    from diffpo_jax.report import build

    out = build.destination(_WORKDIR.value, _OUT.value)
    report = build.gather(_WORKDIR.value)
    files.check_target(out, "--out")
    with files.explained(out, "--out"):
        figures = build.write(report, out)
    print(f"page: {out}")
    print(f"figures: {figures}")


if __name__ == "__main__":
    command.run(main)
