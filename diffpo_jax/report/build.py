"""From directories of runs or of a study to a page and its figures on disk."""

import pathlib
from collections.abc import Sequence

from diffpo_jax.analysis import runs
from diffpo_jax.report import compose, page, picture
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError


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
    studies = [workdir for workdir in workdirs if runs.is_study(workdir)]
    if studies and len(workdirs) > 1:
        raise UserError(f"--workdir={studies[0]} is a study, which has a page of its own.")
    if studies:
        return compose.of_study(runs.read_study(workdirs[0]))
    names = [path.name for path in paths]
    unique = len(set(names)) == len(names)
    shown = names if unique else workdirs
    return compose.of_runs([runs.read_run(w, name) for w, name in zip(workdirs, shown)])


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
