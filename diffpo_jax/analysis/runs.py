"""What lies in the directory of a run, and in that of a study, read for a report.

A run that is still going has less of it, and what it has grows while it is read: whatever is not
there is None or empty.
"""

import json
import pathlib
from typing import Any, NamedTuple

from diffpo_jax.analysis import settings
from diffpo_jax.config import convert
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import layout, metrics

STATES = ("done", "failed", "pending", "running")

_SUMMARY = ("base", "trained", "gains", "prompts", "dial", "mode")


class Run(NamedTuple):
    """A run's files.

    Attributes:
      name: what the report calls it.
      config: every field, by its dotted name; those that the code of the run did not have yet
        are at their defaults.
      info: of run_info.json, {} without it.
      metrics: the whole lines of metrics.jsonl.
      written: when the last of them was, in seconds since 1970; None where there is none.
      summary: of report/summary.json, None before the run's end.
      samples: rows of samples/test.jsonl, or before the run's end of its latest rollouts.
      samples_of: the name of that file without its ending, "" without one.
    """

    name: str
    path: pathlib.Path
    config: dict[str, Any]
    info: dict[str, Any]
    metrics: list[dict[str, Any]]
    written: float | None
    summary: dict[str, Any] | None
    samples: list[dict[str, Any]]
    samples_of: str

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def rl(self) -> list[dict[str, Any]]:
        """The lines of RL, by step."""
        return self.lines("rl")

    def lines(self, stage: str) -> list[dict[str, Any]]:
        """The lines of a stage, by step."""
        return sorted((r for r in self.metrics if r["stage"] == stage), key=lambda r: r["step"])


class StudyRun(NamedTuple):
    """A line of study.json; `run` is None where there is nothing to read, and `error` says why."""

    id: str
    arm: str
    task: str
    seed: int
    state: str
    error: str
    run: Run | None


class Study(NamedTuple):
    """A study's directory; `results` is report/results.json, {} before there is one."""

    title: str
    path: pathlib.Path
    runs: list[StudyRun]
    results: dict[str, Any]


def is_study(path: str | pathlib.Path) -> bool:
    """Whether the directory is that of a study."""
    return (pathlib.Path(path) / "study.json").is_file()


def read_run(path: str | pathlib.Path, name: str = "") -> Run:
    """Reads a run, whole or so far.

    Args:
      name: what to call it; empty takes the directory's.

    Raises:
      UserError: no run is there, or a file of it is damaged.
    """
    paths = layout.Workdir(pathlib.Path(path))
    if not paths.config.is_file():
        raise UserError(f"{path} holds no run: there is no {paths.config.name}.")
    config = settings.current_values(convert.flatten(_object(paths.config)))
    if not isinstance(config.get("seed"), int):
        raise UserError(f"{paths.config} is no configuration of a run: it has no seed.")
    summary = _object(paths.report / "summary.json", needed=False)
    if absent := [field for field in _SUMMARY if summary and field not in summary]:
        raise UserError(
            f"{paths.report / 'summary.json'} has no {', '.join(absent)}: another version of the "
            "code wrote it. Run the experiment's command again; it evaluates the run anew."
        )
    lines, written = _metrics(paths.metrics)
    samples_of, samples = _samples(paths.samples)
    return Run(
        name=name or paths.root.resolve().name,
        path=paths.root,
        config=settings.defaults_of(config) | config,
        info=_object(paths.run_info, needed=False),
        metrics=lines,
        written=written,
        summary=summary or None,
        samples=samples,
        samples_of=samples_of,
    )


def read_study(path: str | pathlib.Path) -> Study:
    """Reads a study and those of its runs that have begun.

    A run that cannot be read does not keep the others from being shown: its line says why.

    Raises:
      UserError: study.json or report/results.json is damaged or lacks a field.
    """
    root = pathlib.Path(path)
    file = root / "study.json"
    found = _object(file)
    title, runs = found.get("title"), found.get("runs")
    if not isinstance(title, str) or not isinstance(runs, list):
        raise UserError(f"{file} must have a title and a list of runs.")
    return Study(
        title=title,
        path=root,
        runs=[_study_run(root, entry, f"{file}: run {i + 1}") for i, entry in enumerate(runs)],
        results=_results(root / "report" / "results.json"),
    )


def _study_run(root: pathlib.Path, entry: Any, where: str) -> StudyRun:
    fields = {"id": str, "arm": str, "task": str, "seed": int, "state": str, "workdir": str}
    for name, kind in fields.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
            raise UserError(f"{where} has no {name} of type {kind.__name__}.")
    if entry["state"] not in STATES:
        raise UserError(f"{where} has the state {entry['state']!r}; one of {', '.join(STATES)}.")
    error, run = str(entry.get("error") or ""), None
    if entry["state"] != "pending":
        try:
            run = read_run(root / entry["workdir"], entry["id"])
        except UserError as fault:
            error = error or str(fault)
    names = ("id", "arm", "task", "seed", "state")
    return StudyRun(*(entry[name] for name in names), error=error, run=run)


def _results(file: pathlib.Path) -> dict[str, Any]:
    found = _object(file, needed=False)
    for table in found.get("tables", []):
        lists = isinstance(table, dict) and [table.get("columns"), table.get("rows")]
        if not lists or not all(isinstance(x, list) for x in lists):
            raise UserError(f"{file}: a table needs columns and rows.")
        if any(len(row) != len(table["columns"]) for row in table["rows"]):
            raise UserError(f"{file}: a row of {table.get('title', '')!r} has another length.")
    return found


def _metrics(file: pathlib.Path) -> tuple[list[dict[str, Any]], float | None]:
    try:
        lines, written = metrics.read(file), file.stat().st_mtime
    except FileNotFoundError:
        return [], None
    if any("stage" not in line or "step" not in line for line in lines):
        raise UserError(
            f"{file}: a line has no stage or no step; this is no metrics file of a run."
        )
    return lines, written if lines else None


def _samples(directory: pathlib.Path) -> tuple[str, list[dict[str, Any]]]:
    """The test answers, or the latest rollouts: names hold the step with leading zeros."""
    rollouts = sorted(directory.glob("rl-*.jsonl"), reverse=True)
    for file in (directory / "test.jsonl", *rollouts):
        if file.is_file():
            try:
                rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
            except ValueError as error:
                raise UserError(f"{file} is damaged: {error}.") from error
            return file.stem, rows
    return "", []


def _object(file: pathlib.Path, *, needed: bool = True) -> dict[str, Any]:
    """A JSON object; {} where the file is missing and not needed."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        if not needed:
            return {}
        raise UserError(f"{file} is missing.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} must hold a JSON object.")
    return found
