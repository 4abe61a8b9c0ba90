"""The jobs of a grid as processes of this machine, some at a time, each resumable by itself.

A job writes to STORE/ID and what it prints to STORE/ID.log; it holds STORE/ID.lock while it runs,
also where the study that started it is gone.  A study that finds the lock taken waits for that
process and uses what it leaves.  A job that fails is remembered and the others go on.
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
TOLD_SECONDS = 60.0  # between two reports of what the jobs are doing

Tell = Callable[[str], None]


class State(NamedTuple):
    """How far a job is: pending, running, done or failed, and why it failed."""

    name: str = "pending"
    error: str | None = None


def command(job: Job, store: str | pathlib.Path) -> list[str]:
    """What a job runs, without the interpreter."""
    only = ["--base_only"] if job.kind == "base" else []
    return ["-m", "diffpo_jax.main", *job.flags, *only, f"--workdir={store}/{job.id}"]


def is_done(job: Job, store: pathlib.Path) -> bool:
    """Whether a job has left everything it is to leave."""
    mark = "base_model" if job.kind == "base" else "report/summary.json"
    return (store / job.id / mark).exists()


def states(jobs: Sequence[Job], store: pathlib.Path) -> dict[str, State]:
    """How far jobs are by what is on disk: done or pending."""
    return {job.id: State("done") if is_done(job, store) else State() for job in jobs}


def run(
    jobs: Sequence[Job],
    store: pathlib.Path,
    processes: int,
    changed: Callable[[dict[str, State]], None] = lambda states: None,
) -> dict[str, State]:
    """Runs the jobs that are not done, base models before what needs them.

    Args:
      processes: at a time; the cores of this machine are shared out among them.
      changed: told all states whenever one changes.

    Returns:
      The state of every job by its id: done or failed.

    Raises:
      Stopped: told to end by SIGTERM or an interrupt; the processes have saved and ended.
      UserError: the store cannot be written.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make {store}: {error.strerror}. Choose another --store."
        ) from error
    state = states(jobs, store)
    changed(state)
    children: dict[int, _Child] = {}
    done = sum(s.name == "done" for s in state.values())
    with Progress("study", len(jobs), unit="run", initial=done) as progress, _told() as told:
        try:
            _until_over(jobs, store, processes, state, children, told, progress, changed)
        except BaseException:
            _end(children, [*told] or [signal.SIGTERM])
            raise
    return state


def last_line(path: pathlib.Path) -> str:
    """The last line of a log that is not empty; "" where there is none."""
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
    """The process of a job; None where another has its lock."""
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
            # An interrupt at the terminal reaches it through us, as a SIGTERM that it heeds.
            start_new_session=True,
        )
    if cores:
        with contextlib.suppress(OSError):  # it may have ended already
            os.sched_setaffinity(process.pid, cores)
    return _Child(job, process, lock)


def _cores(slot: int, processes: int) -> set[int]:
    """The share of one of several processes in this machine's cores; empty: all of them."""
    if not hasattr(os, "sched_getaffinity"):
        return set()
    cores = sorted(os.sched_getaffinity(0))
    if processes == 1 or processes > len(cores):
        return set()
    return set(cores[slot * len(cores) // processes : (slot + 1) * len(cores) // processes])


def _until_over(
    jobs: Sequence[Job],
    store: pathlib.Path,
    processes: int,
    state: dict[str, State],
    children: dict[int, "_Child"],
    told: list[int],
    progress: Progress,
    changed: Callable[[dict[str, State]], None],
) -> None:
    """Starts and watches the jobs until every state, changed in place, is done or failed."""
    last_told = time.monotonic()
    while any(s.name in ("pending", "running") for s in state.values()):
        if told:
            raise Stopped("The study was told to stop; the same command goes on from there.")
        before = dict(state)
        for slot, child in list(children.items()):
            if (code := child.process.poll()) is not None:
                children.pop(slot).close()
                state[child.job.id] = _outcome(child.job, code, store)
        _skip(jobs, state)
        for job in jobs:
            if len(children) == processes:
                break
            if state[job.id].name != "pending" or not _ready(job, state):
                continue
            if is_done(job, store):  # by another study, meanwhile
                state[job.id] = State("done")
                continue
            slot = next(i for i in range(processes) if i not in children)
            child = _start(job, store, _cores(slot, processes))
            if child is not None:
                children[slot] = child
                state[job.id] = State("running")
                progress.say(f"started {job.name}: {store / job.id}")
        if state != before:
            _tell(jobs, before, state, progress)
            changed(state)
        if time.monotonic() - last_told > TOLD_SECONDS:
            last_told = time.monotonic()
            for child in children.values():
                progress.say(f"{child.job.name}: {last_line(store / f'{child.job.id}.log')}")
        time.sleep(POLL_SECONDS)


def _ready(job: Job, state: dict[str, State]) -> bool:
    return not job.needs or state[job.needs].name == "done"


def _skip(jobs: Sequence[Job], state: dict[str, State]) -> None:
    """Fails, in place, what needs a base model that failed."""
    for job in jobs:
        if job.needs and state[job.id].name == "pending" and state[job.needs].name == "failed":
            state[job.id] = State("failed", f"its base model failed: {state[job.needs].error}")


def _outcome(job: Job, code: int, store: pathlib.Path) -> State:
    if code == 0 and job.kind == "base":
        files.write_atomic(store / job.id / "base_model", "done\n")
    if code == 0 and is_done(job, store):
        return State("done")
    line = last_line(store / f"{job.id}.log") or f"exit status {code}"
    if code == STOPPED:
        line = f"told to stop, and resumable: {line}"
    return State("failed", line.removeprefix("error: "))


def _tell(
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
def _told() -> Iterator[list[int]]:
    """Signals to end that came within the block, instead of their actions."""
    told: list[int] = []

    def note(number: int, frame: Any) -> None:
        told.append(number)

    before = {n: signal.signal(n, note) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(children: dict[int, _Child], told: list[int]) -> None:
    """Tells every process to end and waits; each further signal to us is passed on as well."""
    sent = 0
    while any(child.process.poll() is None for child in children.values()):
        if sent < len(told):
            sent = len(told)
            for child in children.values():
                child.process.terminate()
        time.sleep(POLL_SECONDS / 10)
    for child in children.values():
        child.close()
