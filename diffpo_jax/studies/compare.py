"""A study that compares runs: runs them, and says what came of it.

Leaves in its workdir

  study.json     the runs: arm, task, seed, state, where they are
  report/        results.json, the tables as text, figures as PNG, SVG and CSV
"""

import json
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from diffpo_jax.analysis import bootstrap
from diffpo_jax.analysis.comparison import Finished
from diffpo_jax.config import GridConfig
from diffpo_jax.report import grid_figures, grid_tables
from diffpo_jax.studies import grid, runner
from diffpo_jax.studies.grid import Job
from diffpo_jax.studies.runner import State
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import metrics


def run(config: GridConfig, workdir: str, store: str, *, collect: bool = False) -> dict[str, Any]:
    """Runs what is not done yet, and reports what is.

    Args:
      store: directory of the runs, which studies may share.
      collect: starts nothing, reports what there is.

    Returns:
      The content of report/results.json.

    Raises:
      UserError: the grid's configuration is wrong; no run has ended well.  Runs that fail are
        reported, and the rest goes on.
      Stopped: told to end.
    """
    root, runs = pathlib.Path(workdir), pathlib.Path(store)
    jobs = grid.jobs(config, store)

    def write(state: Mapping[str, State]) -> None:
        files.write_json(root / "study.json", _study(config, jobs, state, root, runs))

    if collect:
        known = _known(root)
        state = {
            id_: known.get(id_, found) if found.name == "pending" else found
            for id_, found in runner.states(jobs, runs).items()
        }
        write(state)
    else:
        state = runner.run(jobs, runs, config.processes, write)
    result = report(config, jobs, state, root, runs)
    for table in result["tables"]:
        print(grid_tables.as_text(table))
    for line in result["missing"]:
        print(line)
    print(f"report: {root / 'report'}")
    return result


def report(
    config: GridConfig,
    jobs: Sequence[Job],
    state: Mapping[str, State],
    root: pathlib.Path,
    store: pathlib.Path,
) -> dict[str, Any]:
    """Writes report/ from the runs that are done.

    Raises:
      UserError: there is none.
    """
    finished = [
        read(job, store) for job in jobs if job.kind == "run" and state[job.id].name == "done"
    ]
    missing = [
        f"{state[job.id].name.upper()} {job.name}: {state[job.id].error or 'not there yet'}"
        for job in jobs
        if job.kind == "run" and state[job.id].name != "done"
    ]
    if not finished:
        raise UserError("\n".join([f"{root}: none of its runs is done.", *missing]))
    place = root / "report"
    place.mkdir(parents=True, exist_ok=True)
    tables = grid_tables.tables(finished, config.calls, config.reference)
    result = {
        "title": config.title,
        "tables": tables,
        "figures": grid_figures.write(place, finished),
        "missing": missing,
        "commits": sorted({run.summary["commit"] for run in finished}),
    }
    sections = [f"# {config.title}\n", *map(grid_tables.as_markdown, tables)]
    files.write_atomic(place / "tables.md", "\n".join([*sections, *missing]))
    files.write_json(place / "results.json", result)
    return result


def read(job: Job, store: pathlib.Path) -> Finished:
    """What a finished run left.

    Raises:
      UserError: a file of it is missing or is of an older version of this code.
    """
    place = store / job.id
    try:
        summary = json.loads((place / "report" / "summary.json").read_text())
        outcomes = bootstrap.read_outcomes(place / "report" / "outcomes.npz")
        lines = metrics.read(place / "metrics.jsonl")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{place} cannot be read as the run of {job.name}: {error}. Remove {place}/report "
            "and start the study again: the run is evaluated anew."
        ) from error
    return Finished(job.task, job.arm, job.seed, job.id, summary, lines, outcomes)


def script(config: GridConfig, store: str, kind: str) -> str:
    """The grid as a shell script, for a scheduler in place of this machine.

    Base models come first: the runs begin from them.

    Args:
      kind: "list", plain commands; "slurm" or "xpk", calls of the scripts in launch/.

    Raises:
      UserError: the store does not fit the kind.
    """
    jobs = grid.jobs(config, _as_seen(store, kind))
    bases = [_call(job, store, kind) for job in jobs if job.kind == "base"]
    runs = [_call(job, store, kind) for job in jobs if job.kind == "run"]
    if kind == "list":
        return "\n".join(["# Base models", *bases, "# Runs, in any order", *runs]) + "\n"
    lines = ["#!/usr/bin/env bash", "set -euo pipefail", "", "# Base models, side by side"]
    lines += ["pids=()"] * bool(bases)
    for call in bases:
        lines += [f"{call} &", "pids+=($!)"]
    if bases:
        lines.append('for pid in "${pids[@]}"; do wait "$pid"; done')
    return "\n".join([*lines, "", "# The runs, which begin from them", *runs]) + "\n"


def _as_seen(store: str, kind: str) -> str:
    """The store as the processes of a run see it."""
    if "://" not in store:
        if kind == "xpk":
            raise UserError(f"--store={store}: with --emit=xpk it is gs://BUCKET/PATH.")
        return store
    if kind != "xpk" or not store.startswith("gs://"):
        raise UserError(
            f"--store={store}: only --emit=xpk takes a bucket; else it is a shared directory."
        )
    # Where launch/gke_xpk.sh mounts the bucket.
    return "/bucket/" + store.removeprefix("gs://").partition("/")[2]


def _call(job: Job, store: str, kind: str) -> str:
    if kind == "list":
        return "python " + _quoted(runner.command(job, store))
    config = job.flags[0].removeprefix("--config=")
    flags = [*job.flags[1:], *(["--base_only"] if job.kind == "base" else [])]
    settings = {"NAME": f"diffpo-{job.id}", "CONFIG": config, "WORKDIR": f"{store}/{job.id}"}
    words = [f"{name}={_quoted([value])}" for name, value in settings.items()]
    launcher = {"slurm": "launch/slurm_gpu.sh", "xpk": "launch/gke_xpk.sh"}[kind]
    what = "run" if job.kind == "base" else "start"
    return f"{' '.join(words)} {launcher} {what} -- {_quoted(flags)}"


def _quoted(words: Sequence[str]) -> str:
    return shlex.join(words)


def _known(root: pathlib.Path) -> dict[str, State]:
    """The runs that had failed when the study last wrote study.json."""
    try:
        listed = json.loads((root / "study.json").read_text())["runs"]
    except FileNotFoundError:
        return {}
    failed = (run for run in listed if run["state"] == "failed")
    return {run["id"]: State("failed", run["error"]) for run in failed}


def _study(
    config: GridConfig,
    jobs: Sequence[Job],
    state: Mapping[str, State],
    root: pathlib.Path,
    store: pathlib.Path,
) -> dict[str, Any]:
    return {
        "name": root.name,
        "title": config.title,
        "runs": [
            {
                "id": job.id,
                "arm": job.arm,
                "task": job.task,
                "seed": job.seed,
                "state": state[job.id].name,
                "error": state[job.id].error,
                "workdir": _relative(store / job.id, root),
            }
            for job in jobs
            if job.kind == "run"
        ],
    }


def _relative(path: pathlib.Path, start: pathlib.Path) -> str:
    return os.path.relpath(path, start)
