"""A study that compares runs: trains the missing ones, and reports those that are done.

Its workdir contains

  study.json     the runs: arm, task, seed, state, directory
  report/        results.json, the tables as Markdown, figures as PNG, SVG and CSV
"""

import json
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from diffpo_jax.analysis import groups
from diffpo_jax.analysis.runs import Run, read_run
from diffpo_jax.config import GridConfig
from diffpo_jax.report import study_figures, study_tables, tables
from diffpo_jax.studies import grid, runner
from diffpo_jax.studies.grid import Job
from diffpo_jax.studies.runner import State
from diffpo_jax.system import files, reading
from diffpo_jax.system.errors import UserError


def run(config: GridConfig, workdir: str, store: str, *, collect: bool = False) -> dict[str, Any]:
    """Trains the runs that are not done yet; writes and prints the report on those that are.

    A run that fails is reported, and the others go on.

    Args:
      store: directory of the runs, which studies may share.
      collect: starts no runs.

    Raises:
      UserError: the grid's configuration is wrong, or no run is done.
      Stopped: a signal ended the study.
    """
    root, place = pathlib.Path(workdir), pathlib.Path(store)
    jobs = grid.jobs(config, store)
    runs = [job for job in jobs if job.kind == "run"]

    def write(state: Mapping[str, State]) -> None:
        files.write_json(root / "study.json", _study(config, runs, state, root, place))

    if collect:
        failed = _known_failures(root)
        state = {
            id_: failed.get(id_, now) if now.name == "pending" else now
            for id_, now in runner.states(jobs, place).items()
        }
        write(state)
    else:
        state = runner.run(jobs, place, config.processes, write)
    return report(config, runs, state, root, place)


def report(
    config: GridConfig,
    jobs: Sequence[Job],
    state: Mapping[str, State],
    root: pathlib.Path,
    store: pathlib.Path,
) -> dict[str, Any]:
    """Writes report/ from the runs that are done; returns the content of results.json.

    Raises:
      UserError: no run is done, or one cannot be read.
    """
    # 1. Read the runs that are done.
    finished = [read(job, store) for job in jobs if state[job.id].name == "done"]
    missing = [
        f"{state[job.id].name.upper()} {job.name}: {state[job.id].error or 'not done yet'}"
        for job in jobs
        if state[job.id].name != "done"
    ]
    if not finished:
        raise UserError("\n".join([f"{root}: none of its runs is done.", *missing]))
    # 2. Compare them.
    directory = root / "report"
    directory.mkdir(parents=True, exist_ok=True)
    arms = groups.by_arm(finished, [job.arm for job in jobs])
    compared = study_tables.study_tables(arms, config.calls, config.reference)
    result = {
        "title": config.title,
        "tables": list(map(tables.as_json, compared)),
        "figures": study_figures.write(directory, arms),
        "missing": missing,
        "commits": sorted({run.summary["commit"] for run in finished}),
    }
    # 3. Write and print.
    sections = [f"# {config.title}\n", *map(tables.as_markdown, compared)]
    files.write_atomic(directory / "tables.md", "\n".join([*sections, *missing]))
    files.write_json(directory / "results.json", result)
    print("\n".join([*map(tables.as_text, compared), *missing, f"report: {directory}"]))
    return result


def read(job: Job, store: pathlib.Path) -> Run:
    """Reads a finished run; raises UserError if a file is missing or of an older version."""
    workdir = store / job.id
    try:
        return read_run(workdir, job.id, job.task, job.arm, finished=True)
    except UserError as error:
        raise UserError(
            f"{workdir} cannot be read as the run of {job.name}: {error} Remove {workdir}/report "
            "and start the study again to evaluate the run again."
        ) from error


def script(config: GridConfig, store: str, kind: str) -> str:
    """Returns the grid as a shell script, for a scheduler in place of this machine.

    Base models come first: the runs begin from them.

    Args:
      kind: "list" for plain commands; "slurm" or "xpk" for calls of the scripts in launch/.

    Raises:
      UserError: the store does not fit the kind.
    """
    jobs = grid.jobs(config, _mounted_store(store, kind))
    bases = [_command(job, store, kind) for job in jobs if job.kind == "base"]
    runs = [_command(job, store, kind) for job in jobs if job.kind == "run"]
    if kind == "list":
        return "\n".join(["# Base models", *bases, "# Runs, in any order", *runs]) + "\n"
    lines = ["#!/usr/bin/env bash", "set -euo pipefail", "", "# Base models, in parallel"]
    if bases:
        wait = 'for pid in "${pids[@]}"; do wait "$pid"; done'
        lines += ["pids=()", *(f"{command} &\npids+=($!)" for command in bases), wait]
    return "\n".join([*lines, "", "# The runs, which begin from them", *runs]) + "\n"


def _mounted_store(store: str, kind: str) -> str:
    """Returns the store's path for the processes of a run."""
    if kind == "xpk":
        if not store.startswith("gs://"):
            raise UserError(f"--store={store} must be gs://BUCKET/PATH with --emit=xpk.")
        # launch/gke_xpk.sh mounts the bucket here.
        return "/bucket/" + store.removeprefix("gs://").partition("/")[2]
    if "://" in store:
        raise UserError(f"--store={store} must be a shared directory with --emit={kind}.")
    return store


def _command(job: Job, store: str, kind: str) -> str:
    if kind == "list":
        return "python " + shlex.join(runner.command(job, store))
    config = job.flags[0].removeprefix("--config=")
    flags = [*job.flags[1:], *(["--base_only"] if job.kind == "base" else [])]
    settings = {"NAME": f"diffpo-{job.id}", "CONFIG": config, "WORKDIR": f"{store}/{job.id}"}
    words = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    launcher = {"slurm": "launch/slurm_gpu.sh", "xpk": "launch/gke_xpk.sh"}[kind]
    action = "run" if job.kind == "base" else "start"
    return f"{' '.join(words)} {launcher} {action} -- {shlex.join(flags)}"


def _known_failures(root: pathlib.Path) -> dict[str, State]:
    """Returns the runs that had failed when the study last wrote study.json."""
    try:
        runs = json.loads(reading.read_text(root / "study.json"))["runs"]
    except FileNotFoundError:
        return {}
    return {run["id"]: State("failed", run["error"]) for run in runs if run["state"] == "failed"}


def _study(
    config: GridConfig,
    jobs: Sequence[Job],
    state: Mapping[str, State],
    root: pathlib.Path,
    store: pathlib.Path,
) -> dict[str, Any]:
    runs = [
        {"id": job.id, "arm": job.arm, "task": job.task, "seed": job.seed}
        | {"state": state[job.id].name, "error": state[job.id].error}
        | {"workdir": os.path.relpath(store / job.id, root)}
        for job in jobs
    ]
    return {"name": root.name, "title": config.title, "runs": runs}
