"""Runs the jobs of a grid as processes of this machine; each can be resumed on its own.

A job writes to STORE/ID, and what it prints goes to STORE/ID.log. It holds STORE/ID.lock while it
runs, even after the study that started it has ended. A study that finds the lock taken waits for
that process and uses its results. If a job fails, this is recorded and the others continue.
"""

import contextlib
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from diffpo_jax.studies.grid import Job
from diffpo_jax.system import files
from diffpo_jax.system.errors import STOPPED, Stopped, UserError
from diffpo_jax.system.progress import Progress

POLL_SECONDS = 1.0
REPORT_SECONDS = 60.0  # between two reports of what the jobs print


class State(NamedTuple):
    """The state of a job: pending, running, done or failed, and the reason for a failure."""

    name: str = "pending"
    error: str | None = None


def command(job: Job, store: str | pathlib.Path) -> list[str]:
    """The command line of a job, without the interpreter."""
    only = ["--base_only"] if job.kind == "base" else []
    return ["-m", "diffpo_jax.main", *job.flags, *only, f"--workdir={store}/{job.id}"]


def is_done(job: Job, store: pathlib.Path) -> bool:
    """Whether a job has written all its results."""
    mark = "base_model" if job.kind == "base" else "report/summary.json"
    return (store / job.id / mark).exists()


def states(jobs: Sequence[Job], store: pathlib.Path) -> dict[str, State]:
    """The states of jobs according to the files in the store: done or pending."""
    return {job.id: State("done") if is_done(job, store) else State() for job in jobs}


def run(
    jobs: Sequence[Job],
    store: pathlib.Path,
    processes: int,
    on_change: Callable[[dict[str, State]], None] = lambda states: None,
) -> dict[str, State]:
    """Runs the jobs that are not done, base models before the runs that need them.

    Args:
      processes: the number of processes at a time, which share this machine's cores.
      on_change: called with all states whenever one has changed.

    Returns:
      The state of every job by its id: done or failed.

    Raises:
      Stopped: after SIGTERM or an interrupt, when the processes have saved and ended.
      UserError: the store cannot be written.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create {store}: {error.strerror}. Choose another --store."
        ) from error
    state = states(jobs, store)
    on_change(state)
    children: dict[int, _Child] = {}
    done = sum(s.name == "done" for s in state.values())
    progress = Progress("study", len(jobs), unit="run", initial=done)
    with progress, _caught_signals() as signals:
        try:
            _run_pending(jobs, store, processes, state, children, signals, progress, on_change)
        except BaseException:
            if not signals:
                signals.append(signal.SIGTERM)
            _stop(children, signals)
            raise
    return state


def last_line(path: pathlib.Path) -> str:
    """The last line of a log that is not empty; "" if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4_096))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


class _Child(NamedTuple):
    job: Job
    process: subprocess.Popen
    lock: int

    def close(self) -> None:
        os.close(self.lock)


def _start(job: Job, store: pathlib.Path, cores: set[int]) -> _Child | None:
    """Starts the process of a job; returns None if another process holds its lock."""
    lock = os.open(store / f"{job.id}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            return None
        raise UserError(
            f"{store} cannot be locked ({error.strerror}): a study's store must be on a file "
            "system with locks. Choose another --store, or --emit the commands."
        ) from error
    with open(store / f"{job.id}.log", "a") as log:
        process = subprocess.Popen(
            [sys.executable, *command(job, store)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Inherited, so that the lock is held as long as the process lives.
            pass_fds=(lock,),
            # The process gets an interrupt at the terminal from us, as a SIGTERM.
            start_new_session=True,
        )
    if cores:
        with contextlib.suppress(OSError):  # the process may have ended already
            os.sched_setaffinity(process.pid, cores)
    return _Child(job, process, lock)


def _cores(slot: int, processes: int) -> set[int]:
    """The cores of this machine for one of several processes; empty for no restriction."""
    if not hasattr(os, "sched_getaffinity"):
        return set()
    cores = sorted(os.sched_getaffinity(0))
    if processes == 1 or processes > len(cores):
        return set()
    return set(cores[slot * len(cores) // processes : (slot + 1) * len(cores) // processes])


def _run_pending(
    jobs: Sequence[Job],
    store: pathlib.Path,
    processes: int,
    state: dict[str, State],
    children: dict[int, _Child],
    signals: list[int],
    progress: Progress,
    on_change: Callable[[dict[str, State]], None],
) -> None:
    """Starts and watches jobs until all are done or failed; changes `state` and `children`."""
    last_report = time.monotonic()
    while any(s.name in ("pending", "running") for s in state.values()):
        if signals:
            raise Stopped("The study was stopped; the same command resumes there.")
        before = dict(state)
        # 1. Collect the processes that have ended.
        for slot, child in list(children.items()):
            if (code := child.process.poll()) is not None:
                children.pop(slot).close()
                state[child.job.id] = _outcome(child.job, code, store)
        # 2. Fail the runs whose base model failed.
        for job in jobs:
            if job.needs and state[job.id].name == "pending" and state[job.needs].name == "failed":
                reason = f"its base model failed: {state[job.needs].error}"
                state[job.id] = State("failed", reason)
        # 3. Start as many of the pending jobs as there are free slots.
        for job in jobs:
            if len(children) == processes:
                break
            ready = not job.needs or state[job.needs].name == "done"
            if state[job.id].name != "pending" or not ready:
                continue
            if is_done(job, store):  # another study has finished it in the meantime
                state[job.id] = State("done")
                continue
            slot = next(i for i in range(processes) if i not in children)
            child = _start(job, store, _cores(slot, processes))
            if child is not None:
                children[slot] = child
                state[job.id] = State("running")
                progress.say(f"started {job.name}: {store / job.id}")
        # 4. Report.
        if state != before:
            _report_changes(jobs, before, state, progress)
            on_change(state)
        if time.monotonic() - last_report > REPORT_SECONDS:
            last_report = time.monotonic()
            for child in children.values():
                progress.say(f"{child.job.name}: {last_line(store / f'{child.job.id}.log')}")
        time.sleep(POLL_SECONDS)


def _outcome(job: Job, code: int, store: pathlib.Path) -> State:
    """The state of a job whose process has ended with an exit status."""
    if code == 0 and job.kind == "base":
        files.write_atomic(store / job.id / "base_model", "done\n")
    if code == 0 and is_done(job, store):
        return State("done")
    line = last_line(store / f"{job.id}.log") or f"exit status {code}"
    if code == STOPPED:
        line = f"stopped, and resumable: {line}"
    return State("failed", line.removeprefix("error: "))


def _report_changes(
    jobs: Sequence[Job], before: dict[str, State], after: dict[str, State], progress: Progress
) -> None:
    for job in jobs:
        if after[job.id] == before[job.id] or after[job.id].name not in ("done", "failed"):
            continue
        if after[job.id].name == "failed":
            progress.say(f"FAILED {job.name}: {after[job.id].error}")
        failed = sum(s.name == "failed" for s in after.values())
        progress.update(failed=failed, last=job.name)


@contextlib.contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list within the block, instead of their actions."""
    signals: list[int] = []

    def note(number: int, frame: Any) -> None:
        signals.append(number)

    before = {n: signal.signal(n, note) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(children: dict[int, _Child], signals: list[int]) -> None:
    """Sends SIGTERM to every process and waits; sends it again at each further signal to us."""
    sent = 0
    while any(child.process.poll() is None for child in children.values()):
        if sent < len(signals):
            sent = len(signals)
            for child in children.values():
                child.process.terminate()
        time.sleep(POLL_SECONDS / 10)
    for child in children.values():
        child.close()
