"""Builds a page and its figures on disk from directories of runs or of a study."""

import pathlib
from collections.abc import Sequence

from diffpo_jax.analysis import runs
from diffpo_jax.report import compose, page, picture
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.progress import say


def gather(workdirs: Sequence[str]) -> compose.Report:
    """Returns the content of the page about these directories.

    Raises:
      UserError: a directory holds neither a run nor a study, is given twice, or a study is given
        together with something else; or a file is damaged.
    """
    paths = [pathlib.Path(workdir).resolve() for workdir in workdirs]
    for path, workdir in zip(paths, workdirs):
        if not path.is_dir():
            raise UserError(f"--workdir={workdir} is not a directory.")
        if paths.count(path) > 1:
            raise UserError(f"--workdir={workdir} is given twice.")
    studies = [workdir for workdir in workdirs if runs.is_study(workdir)]
    if studies and len(workdirs) > 1:
        raise UserError(f"--workdir={studies[0]} is a study: give it alone, it has its own page.")
    if studies:
        return compose.report_study(runs.read_study(workdirs[0]))
    names = [path.name for path in paths]
    is_unique = len(set(names)) == len(names)
    shown = names if is_unique else workdirs
    return compose.report_runs([runs.read_run(w, name) for w, name in zip(workdirs, shown)])


def destination(workdirs: Sequence[str], out: str | None) -> pathlib.Path:
    """Returns the file of the page.

    Raises:
      UserError: `out` is missing with several directories, or is not an HTML file.
    """
    if out is None:
        if len(workdirs) > 1:
            raise UserError("--out is missing: with several workdirs the page needs a file name.")
        return pathlib.Path(workdirs[0]) / "report" / "index.html"
    if pathlib.Path(out).suffix not in (".html", ".htm"):
        raise UserError(f"--out={out} must end in .html.")
    return pathlib.Path(out)


def write(report: compose.Report, out: pathlib.Path) -> pathlib.Path:
    """Writes the figures' files and then the page; returns the directory of the figures."""
    directory = out.with_name(f"{out.stem}_figures")
    for one in report.pictures:
        picture.write(one, directory)
    files.write_atomic(out, page.report_page(report))
    return directory


def redraw(workdir: pathlib.Path) -> None:
    """Writes the page of a run again if it has one, for what has come to the run since."""
    out = destination([str(workdir)], None)
    if out.exists():
        write(gather([str(workdir)]), out)
        say(f"page: {out}")
