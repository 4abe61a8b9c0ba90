"""Reads the directory of a run, and that of a study, for reports.

A run that has not finished has fewer files, and they grow while they are read: whatever is missing
is None or empty.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffpo_jax.analysis import bootstrap
from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.analysis.summary import FIELDS
from diffpo_jax.config import METHODS, RANKINGS, Config, convert, resolve, values
from diffpo_jax.system import reading
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import evaluations, layout, metrics

STATES = ("done", "failed", "pending", "running")


class Evaluation(NamedTuple):
    """An evaluation of a run with other settings than its own (`workdir.evaluations`)."""

    name: str
    settings: dict[str, Any]  # settings.json
    # The points of each model, in the order of the dial and the learned one last; none before the
    # end of the evaluation.
    points: Mapping[str, list[dict[str, Any]]]
    prompts: int | None


class Run(NamedTuple):
    """The content of a run's directory; `task` and `arm` are those of its study, if it has one."""

    name: str  # how reports refer to it
    task: str  # a study's includes the presets: "sudoku:smoke"
    arm: str
    config: dict[str, Any]  # every field by its dotted name; those the run did not have: defaults
    info: dict[str, Any]  # run_info.json
    metrics: list[dict[str, Any]]  # the complete lines of metrics.jsonl
    written: float | None  # when the last of them was written, in seconds since 1970
    summary: dict[str, Any] | None  # report/summary.json; None before the end of the run
    samples: list[dict[str, Any]]  # samples/test.jsonl; before the end, the latest rollouts
    samples_name: str  # name of that file without its ending
    outcomes: Mapping[str, Outcomes]  # report/outcomes.npz, if the run has to be finished
    evaluations: Sequence[Evaluation] = ()  # by name

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def rl(self) -> list[dict[str, Any]]:
        """The lines of RL, by step."""
        return self.lines("rl")

    def lines(self, stage: str) -> list[dict[str, Any]]:
        """Returns the lines of a stage, by step."""
        return sorted((r for r in self.metrics if r["stage"] == stage), key=lambda r: r["step"])


class StudyRun(NamedTuple):
    """An entry of study.json; if `run` is None there is nothing to read, and `error` says why."""

    id: str
    arm: str
    task: str
    seed: int
    state: str
    error: str
    run: Run | None


class Study(NamedTuple):
    """The directory of a study; `results` is report/results.json, or {} if it is missing."""

    title: str
    path: pathlib.Path
    runs: list[StudyRun]
    results: dict[str, Any]


def is_study(path: str | pathlib.Path) -> bool:
    """Returns whether the directory is that of a study."""
    return (pathlib.Path(path) / "study.json").is_file()


def read_run(
    path: str | pathlib.Path, name: str = "", task: str = "", arm: str = "", finished: bool = False
) -> Run:
    """Reads a run, finished or not.

    Args:
      name, task: empty for the directory's name, and for the task in the run's configuration.
      finished: the run has to be finished, and its outcomes are read as well.

    Raises:
      UserError: the directory holds no run, or one of its files is missing or damaged.
    """
    paths = layout.Workdir(pathlib.Path(path))
    if not paths.config.is_file():
        raise UserError(f"{path} holds no run: there is no {paths.config.name}.")
    config = current_values(convert.flatten(_read_object(paths.config)))
    _check_kinds(config, paths.config)
    if not isinstance(config.get("seed"), int):
        raise UserError(f"{paths.config} is not the configuration of a run: it has no seed.")
    config = default_values(config) | config
    summary = _read_object(paths.report / "summary.json", required=finished)
    if absent := [field for field in FIELDS if summary and field not in summary]:
        raise UserError(
            f"{paths.report / 'summary.json'} has no {', '.join(absent)}: another version of the "
            "code wrote it. Run the experiment's command again to evaluate the run again."
        )
    lines, written = _read_metrics(paths.metrics)
    samples_name, samples = _read_samples(paths.samples)
    return Run(
        name=name or paths.root.resolve().name,
        task=task or config["task.name"],
        arm=arm,
        config=config,
        info=_read_object(paths.run_info, required=False),
        metrics=lines,
        written=written,
        summary=summary or None,
        samples=samples,
        samples_name=samples_name,
        outcomes=_read_outcomes(paths.report / "outcomes.npz") if finished else {},
        evaluations=[_read_evaluation(file) for file in evaluations.all_settings(paths)],
    )


def default_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every field of a run that sets nothing but this method and this commit rule."""
    plain = Config()
    if config.get("method") in METHODS:
        plain = dataclasses.replace(plain, method=config["method"])
    if config.get("sampler.rule") in RANKINGS:
        sampler = dataclasses.replace(plain.sampler, rule=config["sampler.rule"])
        plain = dataclasses.replace(plain, sampler=sampler)
    resolved = resolve.resolve_rule(resolve.resolve_method(plain))
    return convert.flatten(dataclasses.asdict(resolved))


def current_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration with values that only older versions wrote as today's."""
    annotations = values.all_annotations(Config)
    return {
        name: values.current(annotations[name], value) if name in annotations else value
        for name, value in config.items()
    }


def _check_kinds(config: Mapping[str, Any], file: pathlib.Path) -> None:
    """Raises `UserError` if a field holds a value of another type; older versions had others."""
    known = values.all_annotations(Config)
    for name, value in config.items():
        if name not in known:
            if any(field.startswith(f"{name}.") for field in known):
                raise UserError(f"{file}: config.{name}={value!r:.60} must be a section.")
            continue
        kinds = values.kinds(known[name])
        kinds = kinds | ({list} if tuple in kinds else set()) | ({int} if float in kinds else set())
        if type(value) not in kinds:
            wanted = values.describe(known[name])
            raise UserError(f"{file}: config.{name}={value!r:.60} must be {wanted}.")


def read_study(path: str | pathlib.Path) -> Study:
    """Reads a study and those of its runs that have begun.

    A run that cannot be read does not hide the others: its entry says why.

    Raises:
      UserError: study.json or report/results.json is damaged or lacks a field.
    """
    root = pathlib.Path(path)
    file = root / "study.json"
    content = _read_object(file)
    title, runs = content.get("title"), content.get("runs")
    if not isinstance(title, str) or not isinstance(runs, list):
        raise UserError(f"{file} must have a title and a list of runs.")
    return Study(
        title=title,
        path=root,
        runs=[_read_study_run(root, entry, f"{file}: run {i + 1}") for i, entry in enumerate(runs)],
        results=_read_results(root / "report" / "results.json"),
    )


def _read_evaluation(settings: pathlib.Path) -> Evaluation:
    root = settings.parent
    both = _read_object(root / "report" / "summary.json", required=False)
    one = _read_object(root / "evaluation.json", required=False)
    points = {}
    if both:
        learned = both["trained"]["learned"]
        points = {name: both[name]["frontier"] for name in ("base", "trained")}
        points["trained"] = [*points["trained"], *([learned] if learned else [])]
    elif one:
        points = {one["model"]["which"]: one["points"]}
    asked = _read_object(settings)
    if not isinstance(asked.get("changes"), dict) or "model" not in asked:
        raise UserError(f"{settings} has no model and changes. Remove the directory {root}.")
    return Evaluation(root.name, asked, points, (both or one).get("prompts"))


def _read_study_run(root: pathlib.Path, entry: Any, where: str) -> StudyRun:
    fields = {"id": str, "arm": str, "task": str, "seed": int, "state": str, "workdir": str}
    for name, kind in fields.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
            raise UserError(f"{where} has no {name} of type {kind.__name__}.")
    if entry["state"] not in STATES:
        raise UserError(
            f"{where} has the state {entry['state']!r}; it must be one of {', '.join(STATES)}."
        )
    error, run = str(entry.get("error") or ""), None
    if entry["state"] != "pending":
        try:
            workdir, task, arm = root / entry["workdir"], entry["task"], entry["arm"]
            run = read_run(workdir, entry["id"], task=task, arm=arm)
        except UserError as fault:
            error = error or str(fault)
    names = ("id", "arm", "task", "seed", "state")
    return StudyRun(*(entry[name] for name in names), error=error, run=run)


def _read_results(file: pathlib.Path) -> dict[str, Any]:
    content = _read_object(file, required=False)
    for table in content.get("tables", []):
        lists = isinstance(table, dict) and [table.get("columns"), table.get("rows")]
        if not lists or not all(isinstance(x, list) for x in lists):
            raise UserError(f"{file}: a table needs columns and rows.")
        if any(len(row) != len(table["columns"]) for row in table["rows"]):
            raise UserError(
                f"{file}: a row of the table {table.get('title', '')!r} does not have "
                f"{len(table['columns'])} cells."
            )
    return content


def _read_metrics(file: pathlib.Path) -> tuple[list[dict[str, Any]], float | None]:
    try:
        lines, written = metrics.read(file), file.stat().st_mtime
    except FileNotFoundError:
        return [], None
    return lines, written if lines else None


def _read_samples(directory: pathlib.Path) -> tuple[str, list[dict[str, Any]]]:
    """Reads the test answers, or else the latest rollouts."""
    # The names of rollouts hold the step with leading zeros.
    rollouts = sorted(directory.glob("rl-*.jsonl"), reverse=True)
    for file in (directory / "test.jsonl", *rollouts):
        if file.is_file():
            try:
                rows = [json.loads(line) for line in reading.read_text(file).split("\n") if line]
            except ValueError as error:
                raise UserError(f"{file} is damaged: {error}.") from error
            return file.stem, rows
    return "", []


def _read_outcomes(file: pathlib.Path) -> dict[str, Outcomes]:
    try:
        return bootstrap.read_outcomes(file)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error


def _read_object(file: pathlib.Path, *, required: bool = True) -> dict[str, Any]:
    """Reads a JSON object; returns {} if the file is missing and not required."""
    try:
        content = json.loads(reading.read_text(file))
    except FileNotFoundError:
        if not required:
            return {}
        raise UserError(f"{file} is missing.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold a JSON object.")
    return content
