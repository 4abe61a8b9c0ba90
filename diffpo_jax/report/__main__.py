"""Writes a page about a run, several runs, or a study; without a model and without jax.

    python -m diffpo_jax.report --workdir=runs/sudoku

A run may still be going: the page then shows what there is so far.  `--workdir` may be given
several times: runs that differ in the seed alone are shown as one line with a band.  A study is a
directory that holds study.json.  `--out=FILE.html` names the page; without it the page of one
directory is its report/index.html.  Beside it FILE_figures holds every figure as PNG and SVG and
its numbers as CSV.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from diffpo_jax import cli, files
from diffpo_jax.errors import UserError
from diffpo_jax.report import compose, page, picture, read

_WORKDIR = flags.DEFINE_multi_string("workdir", [], "Directory of a run or a study; repeatable.")
_OUT = flags.DEFINE_string("out", None, "File of the page; default: WORKDIR/report/index.html.")


def main(argv: Sequence[str]) -> None:
    cli.require(argv, ("workdir",), __doc__.splitlines()[2].strip())
    out = destination(_WORKDIR.value, _OUT.value)
    report = gather(_WORKDIR.value)
    try:
        figures = write(report, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error}. Choose another with --out.") from error
    print(f"page: {out}")
    print(f"figures: {figures}")


def gather(workdirs: Sequence[str]) -> compose.Report:
    """What there is to show of these directories.

    Raises:
      UserError: a directory holds neither a run nor a study, is given twice, or a study is given
        with something else; or a file is damaged.
    """
    paths = [pathlib.Path(workdir).resolve() for workdir in workdirs]
    for path, workdir in zip(paths, workdirs):
        if not path.is_dir():
            raise UserError(f"--workdir={workdir} is no directory.")
        if paths.count(path) > 1:
            raise UserError(f"--workdir={workdir} is given twice.")
    studies = [workdir for workdir in workdirs if read.is_study(workdir)]
    if studies and len(workdirs) > 1:
        raise UserError(f"--workdir={studies[0]} is a study, which has a page of its own.")
    if studies:
        return compose.of_study(read.read_study(workdirs[0]))
    names = [path.name for path in paths]
    unique = len(set(names)) == len(names)
    shown = names if unique else workdirs
    return compose.of_runs([read.read_run(w, name) for w, name in zip(workdirs, shown)])


def destination(workdirs: Sequence[str], out: str | None) -> pathlib.Path:
    """The file of the page.

    Raises:
      UserError: it is not named where there are several directories, or is no HTML file.
    """
    if out is None:
        if len(workdirs) > 1:
            raise UserError("--out is missing: with several workdirs the page needs a place.")
        return pathlib.Path(workdirs[0]) / "report" / "index.html"
    if pathlib.Path(out).suffix not in (".html", ".htm"):
        raise UserError(f"--out={out} must end in .html.")
    return pathlib.Path(out)


def write(report: compose.Report, out: pathlib.Path) -> pathlib.Path:
    """Writes the figures' files and then the page; returns the directory of the figures."""
    directory = out.with_name(f"{out.stem}_figures")
    for one in report.pictures:
        picture.write(one, directory)
    files.write_atomic(out, page.page(report))
    return directory


if __name__ == "__main__":
    cli.entry(main)
