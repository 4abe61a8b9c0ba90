"""Worker processes that run one function on many items, each item under a time limit.

Symbolic algebra may hang or crash, and a time limit inside the interpreter works only on the main
thread and not against everything.  So every worker is a process that gets one item at a time, and
is killed and replaced if it exceeds the limit.  An item whose worker dies is tried once more.

Why not pebble's ProcessPool (5.2; it has a time limit per item, the standard library's has none)?
It starts workers by `multiprocessing`, which imports the main module again, and jax with it (1.1 s
for two workers, here 0.6 s; 10 s and 2 s on a busy machine).  A main module without a `__main__`
guard or from standard input fails.  In 3 of 5 runs in which random workers were killed, as the
kernel does if memory runs out, it hung for good.  It waits 3 s for a worker that ignores SIGTERM,
while the others cannot start an item.  A hung worker outlives a killed parent.  Speed does not
matter: 2,000 items that do nothing take 0.35 s in both, one comparison by algebra takes 20 ms.
"""

import collections
import contextlib
import importlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent import futures
from multiprocessing import connection
from typing import Any, NamedTuple

_START_S = 120.0  # time limit for the imports of a worker, on a busy machine
_STARTS = 3  # attempts to start a worker
_MEMORY = 4 << 30  # bytes of address space, so that a power tower ends in a MemoryError
_GRACE_S = 2.0  # seconds after the time limit when a worker ends itself, if its parent has not
# Numpy's threads would only use address space, and much of it on machines with many cores.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Outcome(NamedTuple):
    """The result of one item.

    Attributes:
      value: what the function returned, or None after a failure.
      failure: "" or "timeout" or "died" or "error: " and the exception's text.
    """

    value: Any
    failure: str = ""


class Pool:
    """Processes that run one function.  They start when there are items, and end with us."""

    def __init__(self, function: str, *, workers: int, limit_s: float):
        """Starts nothing yet.

        Args:
          function: "package.module:name".  Its arguments and its result must be picklable.
          workers: the largest number of processes.
          limit_s: time limit for one item, in seconds.
        """
        self._function = function
        self._limit_s = limit_s
        self._size = workers
        self._idle: collections.deque[_Worker] = collections.deque()
        self._lock = threading.Lock()  # one `map` at a time, or there would be too many workers

    def map(self, items: Sequence[tuple]) -> list[Outcome]:
        """Calls the function with the arguments of each item.  Outcomes have the items' order.

        Raises `RuntimeError` if no worker can start, for example without such a function.
        """
        if not items:
            return []
        # Each thread waits for one worker.
        with self._lock, futures.ThreadPoolExecutor(min(self._size, len(items))) as threads:
            return list(threads.map(self._run, items))

    def close(self) -> None:
        """Kills the workers.  The next `map` starts new ones."""
        while self._idle:
            self._idle.pop().kill()

    def _run(self, arguments: tuple) -> Outcome:
        outcome = self._try(arguments)
        # The kernel may have killed the worker for lack of memory, which is not the item's fault.
        return self._try(arguments) if outcome.failure == "died" else outcome

    def _try(self, arguments: tuple) -> Outcome:
        worker = self._take_worker()
        outcome = worker.call(arguments, self._limit_s)
        if worker.is_alive():
            self._idle.append(worker)
        return outcome

    def _take_worker(self) -> "_Worker":
        with contextlib.suppress(IndexError):
            while True:
                worker = self._idle.pop()
                if worker.is_alive():  # it may have died while it was idle
                    return worker
                worker.kill()
        for _ in range(_STARTS):
            worker = _Worker(self._function, self._limit_s + _GRACE_S)
            outcome = worker.receive(_START_S)
            if not outcome.failure:
                return worker
            worker.kill()
            if outcome.failure.startswith("error"):
                break
        raise RuntimeError(f"No worker can start for {self._function}: {outcome.failure}")


class _Worker:
    """One process, and our end of the pipe to it."""

    def __init__(self, function: str, limit_s: float):
        self._pipe, theirs = connection.Pipe()
        with theirs:
            code = (
                f"from {__name__} import serve; serve({theirs.fileno()}, {function!r}, {limit_s})"
            )
            path = [entry or os.curdir for entry in sys.path]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno()],
                # Workers can import what this process can import.
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches only the parent, which ends its workers
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def call(self, arguments: tuple, limit_s: float) -> Outcome:
        with contextlib.suppress(OSError):  # if the worker has died, `receive` says so
            self._pipe.send(arguments)
        return self.receive(limit_s)

    def receive(self, limit_s: float) -> Outcome:
        """The next outcome.  Kills the worker if none comes."""
        failure = "timeout"
        try:
            if self._pipe.poll(limit_s):
                return Outcome(*self._pipe.recv())
        except (EOFError, OSError):
            failure = "died"
        self.kill()
        return Outcome(None, failure)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()


def serve(descriptor: int, function: str, limit_s: float) -> None:
    """Runs in a worker: imports the function, then calls it on each item until the pipe closes."""
    with contextlib.suppress(EOFError, OSError), connection.Connection(descriptor) as pipe:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        module, _, name = function.partition(":")
        try:
            run = getattr(importlib.import_module(module), name)
        except Exception as error:
            pipe.send((None, f"error: {error!r}"))
            return
        pipe.send((None, ""))
        while True:
            item = pipe.recv()
            # A killed parent cannot kill its workers, so the kernel does it: the default action
            # of this signal ends the process, whatever it is doing.
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            try:
                outcome = (run(*item), "")
            except Exception as error:
                outcome = (None, f"error: {error!r}"[:300])
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(outcome)
