"""Several processes as one run: joining them, and what must hold before they begin.

On TPU slices and under Slurm JAX finds the other processes by itself; elsewhere flags say where
they are.  Every process runs the same program on the same data, and arrays are spread over the
devices of all.  Process 0 alone writes; checkpoints, which orbax writes together, aside.
"""

import contextlib
import json
import os
import pathlib
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from diffpo_jax.distributed import abort_watcher
from diffpo_jax.system.errors import UserError

T = TypeVar("T")

_SEEN_SECONDS = 20.0  # how long a file of another host may take to be seen


class Join(NamedTuple):
    """How a process joins the others.

    Attributes:
      coordinator: HOST:PORT of process 0, reachable from all; None: JAX finds out.
      processes: how many there are; None like it.
      process: which of them this is, from 0; None like it.
      start_seconds: how long processes wait for each other at the start.
      heartbeat_seconds: after so long without a sign of life a process counts as dead, and the
        others end.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    start_seconds: int = 300
    heartbeat_seconds: int = 100


def initialize(join: Join) -> None:
    """Joins the processes of this run; before anything else makes JAX look for devices.

    Without flags and without a cluster that JAX knows, this stays a single process; so it does
    where there is to be one process.

    Where the others do not come in time, this process ends with a sentence and status 2.  Where one
    of them dies later, JAX's runtime aborts this one, and a sentence follows.

    Raises:
      UserError: flags that say only half of it.
    """
    if join.processes == 1:  # an opt-out where JAX would look for a cluster and fail
        return
    told = join[:3]
    if any(x is not None for x in told) and None in told:
        raise UserError(
            "--coordinator, --num_processes and --process_id go together: give all three, on "
            "every host, or none on a TPU slice or under Slurm."
        )
    if join.processes is not None and not 0 <= join.process < join.processes:
        raise UserError(
            f"--process_id={join.process} is not among --num_processes={join.processes}; they "
            "are counted from 0."
        )
    alone = (
        f"this process ({socket.gethostname()}) could not join the others within "
        f"{join.start_seconds} s. Is the program started on every host, and the coordinator's "
        "port open? --start_seconds waits longer."
    )
    try:
        with _within(join.start_seconds, alone):
            jax.distributed.initialize(
                *told,
                # At its own limit the runtime aborts, with a stack trace: ours comes first.
                initialization_timeout=join.start_seconds + 60,
                heartbeat_timeout_seconds=join.heartbeat_seconds,
            )
        # JAX's handler notes SIGTERM and goes on; preemption.py says what is done here instead.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        abort_watcher.prepare(
            f"JAX's runtime has ended this process ({socket.gethostname()}). Most often another "
            f"process of the run has died, or did not answer for {join.heartbeat_seconds} s: then "
            "that one's own log says why. The same command on every host goes on from the last "
            "checkpoint."
        )
    except ValueError as error:
        # What JAX says where it was told nothing and finds no cluster.
        if join.coordinator is not None or "coordinator_address" not in str(error):
            raise


def is_first() -> bool:
    """Whether this process writes metrics, samples, run_info and the report."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """A small JSON-like value of every process, in their order, on every process."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    # Arrays that are gathered have one shape: lengths first, then texts as long as the longest.
    lengths = multihost_utils.process_allgather(np.int32(text.size))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: text.size] = text
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:n].tobytes()) for row, n in zip(rows, lengths.tolist())]


def any_of(mine: bool) -> bool:
    """Whether it is true on any process; small enough to be asked at every step."""
    if jax.process_count() == 1:
        return mine
    return bool(multihost_utils.process_allgather(np.int32(mine)).any())


def spread(rows: Sequence[Any], action: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
    """What `action` makes of rows, one JSON-like value each, the work being shared out.

    Every process gets the values that one of them found: where a time limit decides, two might
    find different ones, and then train different models.
    """
    count = jax.process_count()
    if count == 1:
        return action(rows)
    parts = gather(action(rows[jax.process_index() :: count]))
    return [parts[i % count][i // count] for i in range(len(rows))]


def in_turn(action: Callable[[], T]) -> T:
    """Does it on process 0, then on the others: what one writes and all read.

    Raises:
      UserError: on every process, where it did on one; nobody waits for who has stopped.
    """
    result, fault = None, None
    for turn in (True, False):
        if is_first() is turn:
            try:
                result = action()
            except UserError as error:
                fault = str(error)
        for number, other in enumerate(gather(fault)):
            if other:
                place = f" (process {number})" if jax.process_count() > 1 else ""
                raise UserError(other + place)
    return result


def preflight(workdir: pathlib.Path, config: str, commit: str, seconds: float) -> None:
    """Whether all processes are about to do the same, in one directory that they share.

    Args:
      config: the whole configuration as text, compared between processes.
      commit: of the code, likewise.
      seconds: after so long without an answer from all this process ends with status 2.

    Raises:
      UserError: the same on every process: what is wrong, on which host, what to do.
    """
    if jax.process_count() == 1:
        return
    slow = (
        f"process {jax.process_index()} ({socket.gethostname()}) got no answer from all others "
        f"within {seconds:g} s. One has stopped: its own log says why."
    )
    with _within(seconds, slow):
        mine = {
            "host": socket.gethostname(),
            "devices": jax.local_device_count(),
            "config": config,
            "commit": commit,
            "token": secrets.token_hex(8),
        }
        facts = gather(mine)
        _raise(difference(facts))
        token, index = facts[0]["token"], jax.process_index()
        names = [f".preflight-{token}-{i}" for i in range(len(facts))]
        fault = None
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            (workdir / names[index]).write_text(token)
        except OSError as error:
            fault = error.strerror or str(error)
        hosts = [fact["host"] for fact in facts]
        _raise(unwritable(gather(fault), hosts, workdir))
        missing = gather(_unseen(workdir, names))
        (workdir / names[index]).unlink(missing_ok=True)
        _raise(unshared(missing, hosts, workdir))


def difference(facts: Sequence[dict[str, Any]]) -> str | None:
    """What processes do not agree in, as a sentence; None where they agree."""
    first = facts[0]
    for number, other in enumerate(facts):
        pair = f"process {number} ({other['host']})", f"process 0 ({first['host']})"
        if other["commit"] != first["commit"]:
            return (
                f"{pair[0]} runs the code of commit {other['commit']}, {pair[1]} that of "
                f"{first['commit']}. Install one commit on all hosts."
            )
        if other["config"] != first["config"]:
            return (
                f"{pair[0]} has another configuration than {pair[1]}. Start the same command, "
                "with the same flags and config file, on all hosts."
            )
        if other["devices"] != first["devices"]:
            return (
                f"{pair[0]} sees {other['devices']} devices, {pair[1]} {first['devices']}. A "
                "device is missing or taken: look at that host."
            )
    return None


def unwritable(faults: Sequence[str | None], hosts: Sequence[str], workdir: Any) -> str | None:
    """Who cannot write to the workdir, as a sentence; None where all can."""
    for number, fault in enumerate(faults):
        if fault:
            return (
                f"process {number} ({hosts[number]}) cannot write to the workdir {workdir}: "
                f"{fault}. Give it a --workdir that all hosts may write to."
            )
    return None


def unshared(missing: Sequence[list[int]], hosts: Sequence[str], workdir: Any) -> str | None:
    """Who does not see what another wrote, as a sentence; None where all see all."""
    for number, others in enumerate(missing):
        if others:
            return (
                f"process {number} ({hosts[number]}) does not see in the workdir {workdir} what "
                f"process {others[0]} ({hosts[others[0]]}) wrote there: it is not one directory. "
                "Choose a --workdir on a disk or bucket that all hosts mount."
            )
    return None


def _unseen(workdir: pathlib.Path, names: Sequence[str]) -> list[int]:
    end = time.monotonic() + _SEEN_SECONDS
    while True:
        unseen = [i for i, name in enumerate(names) if not (workdir / name).exists()]
        if not unseen or time.monotonic() > end:
            return unseen
        time.sleep(0.2)


def _raise(fault: str | None) -> None:
    if fault:
        raise UserError(fault)


@contextlib.contextmanager
def _within(seconds: float, sentence: str) -> Iterator[None]:
    """Ends the process where this takes longer: a collective that waits cannot be interrupted."""

    def end() -> None:
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
