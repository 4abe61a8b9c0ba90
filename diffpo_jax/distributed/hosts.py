"""Several processes as one run: joining, exchanging host data, and checks before a run starts.

On TPU slices and under Slurm JAX finds the other processes by itself; elsewhere flags name them.
Every process runs the same program on the same data, and arrays are split over the devices of all.
Only process 0 writes files, except for checkpoints, which orbax writes from all processes.
"""

import contextlib
import json
import os
import pathlib
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from diffpo_jax.distributed import abort_watcher
from diffpo_jax.system.errors import Stopped, UserError
from diffpo_jax.system.progress import say

T = TypeVar("T")

_LEAVING_SECONDS = 10.0  # how long a process that failed waits for the others at its end
_VISIBLE_SECONDS = 20.0  # how long a file of another host may take to appear


class Join(NamedTuple):
    """How a process joins the others. The first three are None if JAX is to find them itself.

    Attributes:
      coordinator: HOST:PORT of process 0, reachable from all processes.
      processes: the number of processes.
      process: the index of this process, from 0.
      start_seconds: how long processes wait for each other at the start.
      heartbeat_seconds: a process without a sign of life for so long counts as dead, and the
        others end.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    start_seconds: int = 300
    heartbeat_seconds: int = 100


def initialize(join: Join) -> None:
    """Joins the processes of this run. Call it before anything makes JAX look for devices.

    This stays a single process if `join.processes` is 1, and if there are neither flags nor a
    cluster that JAX knows. If the others do not join in time, this process prints an error and
    exits with status 2. If one of them dies later, JAX's runtime aborts this one, and
    `abort_watcher` prints an error.

    Raises:
      UserError: the flags are incomplete or contradict each other.
    """
    if join.processes == 1:  # for machines on which JAX would look for a cluster and fail
        return
    address = join[:3]
    if any(x is not None for x in address) and None in address:
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
                *address,
                # At its own limit the runtime aborts with a stack trace; our limit comes first.
                initialization_timeout=join.start_seconds + 60,
                heartbeat_timeout_seconds=join.heartbeat_seconds,
            )
        # JAX's handler notes SIGTERM and continues; preemption.py explains what we do instead.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        abort_watcher.start(
            f"JAX's runtime has ended this process ({socket.gethostname()}). Most often another "
            f"process of the run has died, or did not answer for {join.heartbeat_seconds} s; then "
            "its log says why. The same command on every host resumes from the last checkpoint."
        )
    except ValueError as error:
        # JAX's error if it has no address and finds no cluster.
        if join.coordinator is not None or "coordinator_address" not in str(error):
            raise


@contextlib.contextmanager
def leaving_in_time() -> Iterator[None]:
    """Lets a process whose block fails leave the others within seconds.

    At its end JAX would wait for them for five minutes, and show signs of life, while they wait in
    a collective for it. Once it is gone they end as `initialize` says. If all fail together, as
    they do where they exchange what is wrong, all end at once.
    """
    try:
        yield
    except Stopped:  # all stop together
        raise
    except BaseException as error:
        if jax.process_count() > 1:
            status = 2 if isinstance(error, (UserError, OSError)) else 1
            timer = threading.Timer(_LEAVING_SECONDS, os._exit, [status])
            timer.daemon = True
            timer.start()
        raise


def is_first() -> bool:
    """Whether this is process 0, which writes metrics, samples, run_info and the report."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Gathers a small JSON-like value of each process, in their order, on every process."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    # Gathered arrays must have equal shapes: first the lengths, then texts padded to the longest.
    lengths = multihost_utils.process_allgather(np.int32(text.size))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: text.size] = text
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:n].tobytes()) for row, n in zip(rows, lengths.tolist())]


def any_of(mine: bool) -> bool:
    """Whether a flag is true on any process; cheap enough for every step."""
    if jax.process_count() == 1:
        return mine
    return bool(multihost_utils.process_allgather(np.int32(mine)).any())


def spread(rows: Sequence[Any], action: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
    """Applies `action` to rows, with the work shared out; it returns a JSON-like value per row.

    Each value is computed by one process and sent to all. If each process computed all of them, a
    time limit could give them different values, and they would train different models.

    Raises:
      UserError: on every process if `action` fails on one, so that none waits for a stopped one.
    """
    count = jax.process_count()
    if count == 1:
        return action(rows)
    values, fault, failed = [], None, None
    try:
        values = action(rows[jax.process_index() :: count])
    except Exception as error:
        fault, failed = str(error) or repr(error), error
    parts = gather({"values": values, "fault": fault})
    if failed is not None and not isinstance(failed, UserError):
        raise failed  # a mistake of ours: its own traceback says most
    _raise_first([part["fault"] for part in parts])
    return [parts[i % count]["values"][i // count] for i in range(len(rows))]


def in_turn(action: Callable[[], T]) -> T:
    """Calls `action` on process 0, then on the others, for files that one writes and all read.

    Raises:
      UserError: on every process if it is raised on one, so that none waits for a stopped one.
    """
    result, fault = None, None
    for turn in (True, False):
        if is_first() is turn:
            try:
                result = action()
            except UserError as error:
                fault = str(error)
        _raise_first(gather(fault))
    return result


def _raise_first(faults: Sequence[str | None]) -> None:
    """Raises `UserError` for the first of the processes that has a fault."""
    for number, fault in enumerate(faults):
        if fault:
            place = f" (process {number})" if len(faults) > 1 else ""
            raise UserError(fault + place)


def preflight(workdir: pathlib.Path, config: str, commit: str, seconds: float) -> None:
    """Checks that all processes are about to do the same, in one directory that they share.

    Args:
      config: the whole configuration as text, compared between processes.
      commit: the commit of the code, also compared.
      seconds: a process that waits longer for the others' answers exits with status 2.

    Raises:
      UserError: the processes differ, or do not share the directory. The message is the same on
        every process and names the host.
    """
    if jax.process_count() == 1:
        return
    slow = (
        f"process {jax.process_index()} ({socket.gethostname()}) got no answer from all others "
        f"within {seconds:g} s. One of them has stopped; its log says why."
    )
    with _within(seconds, slow):
        # 1. Compare the hosts' facts.
        facts = gather(
            {
                "host": socket.gethostname(),
                "devices": jax.local_device_count(),
                "config": config,
                "commit": commit,
                "token": secrets.token_hex(8),
            }
        )
        check_same(facts)
        # 2. Write a file on each host.
        token, index = facts[0]["token"], jax.process_index()
        files = [workdir / f".preflight-{token}-{i}" for i in range(len(facts))]
        fault = None
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            files[index].write_text(token)
        except OSError as error:
            fault = error.strerror or str(error)
        names = [f"process {i} ({fact['host']})" for i, fact in enumerate(facts)]
        for name, reason in zip(names, gather(fault)):
            if reason:
                raise UserError(
                    f"{name} cannot write to the workdir {workdir}: {reason}. Choose a --workdir "
                    "that all hosts may write to."
                )
        # 3. Look for the files of the others.
        missing = gather(_missing(files))
        files[index].unlink(missing_ok=True)
        for name, others in zip(names, missing):
            if others:
                raise UserError(
                    f"{name} does not see in the workdir {workdir} what {names[others[0]]} wrote "
                    "there: they have different directories. Choose a --workdir on a disk or "
                    "bucket that all hosts mount."
                )


def check_same(facts: Sequence[dict[str, Any]]) -> None:
    """Raises `UserError` if processes differ in commit, configuration or number of devices."""
    first = facts[0]
    for number, other in enumerate(facts):
        pair = f"process {number} ({other['host']})", f"process 0 ({first['host']})"
        if other["commit"] != first["commit"]:
            raise UserError(
                f"{pair[0]} runs the code of commit {other['commit']}, {pair[1]} that of "
                f"{first['commit']}. Install one commit on all hosts."
            )
        if other["config"] != first["config"]:
            raise UserError(
                f"{pair[0]} has another configuration than {pair[1]}. Start the same command, "
                "with the same flags and config file, on all hosts."
            )
        if other["devices"] != first["devices"]:
            raise UserError(
                f"{pair[0]} sees {other['devices']} devices, {pair[1]} {first['devices']}. A "
                "device is missing, or another process holds it: check that host."
            )


def _missing(files: Sequence[pathlib.Path]) -> list[int]:
    """The indices of files that have not appeared after some time."""
    end = time.monotonic() + _VISIBLE_SECONDS
    while True:
        missing = [i for i, file in enumerate(files) if not file.exists()]
        if not missing or time.monotonic() > end:
            return missing
        time.sleep(0.2)


@contextlib.contextmanager
def _within(seconds: float, message: str) -> Iterator[None]:
    """Exits if the block takes longer: a waiting collective cannot be interrupted otherwise."""

    def end() -> None:
        say(f"error: {message}")
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
