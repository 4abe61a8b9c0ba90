"""Runs a function that may hang or crash, many items at once, in processes that can be killed.

Symbolic algebra does not always come back, and a time limit inside the interpreter works on the
main thread only and not against everything.  So each worker is a process of its own that gets
one item at a time.  One that passes the limit is killed and replaced.  So is one that dies; its
item is tried once more.

Workers are fresh interpreters and not forks, which are unsafe beside jax's threads.  Nor do they
start by `multiprocessing`: that would import the program's main module again, and jax with it.
"""

import atexit
import collections
import contextlib
import importlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import connection
from typing import Any, NamedTuple

_START_S = 120.0  # for a worker's imports, on a machine that is busy
_TRIES = 3  # starts in a row that may fail
_MEMORY = 4 << 30  # bytes of address space: a power tower is an error before it is a problem
_GRACE_S = 2.0  # after the limit, a worker whose parent is gone ends itself
# Threads of numpy would do nothing but take address space, on machines with many cores a lot.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Outcome(NamedTuple):
    """What became of one item.

    Attributes:
      value: what the function returned; None after a failure.
      failure: empty, or "timeout", "died", or "error: " and the exception's text.
    """

    value: Any
    failure: str = ""


class Pool:
    """Processes that run one function.  They start with the first item and end with us."""

    def __init__(self, function: str, *, workers: int, limit_s: float):
        """Nothing is started yet.

        Args:
          function: "package.module:name"; takes and returns what pickle can carry.
          workers: how many processes.
          limit_s: seconds that one item may take.
        """
        self._function = function
        self._limit_s = limit_s
        self._size = workers
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._lock = threading.Lock()  # two threads must not share a worker

    def map(self, items: Sequence[tuple]) -> list[Outcome]:
        """Calls the function with each item's arguments.  Outcomes are in the items' order.

        Raises:
          RuntimeError: workers cannot be started, for example as the function is not there.
        """
        with self._lock:
            return self._map(items) if items else []

    def close(self) -> None:
        """Kills the workers; the next item starts new ones."""
        while self._workers:
            self._workers.pop().kill()
        atexit.unregister(self.close)

    def _map(self, items: Sequence[tuple]) -> list[Outcome]:
        if not self._workers:
            atexit.register(self.close)
        outcomes: list[Outcome | None] = [None] * len(items)
        waiting = collections.deque(range(len(items)))
        tried: set[int] = set()
        while waiting or any(w.item is not None for w in self._workers):
            # One that died idle must cost no item.
            self._workers = [w for w in self._workers if w.item is not None or w.runs()]
            # Those that are starting or idle count: no more than there is work for.
            free = sum(w.item is None for w in self._workers)
            for _ in range(min(self._size - len(self._workers), len(waiting) - free)):
                self._workers.append(_Worker(self._function, self._limit_s))
            for worker in self._workers:
                if worker.ready and worker.item is None and waiting:
                    item = waiting.popleft()
                    worker.give(item, items[item])
            for worker in self._wait():
                item, outcome = worker.item, worker.take()
                if item is None:
                    self._started(worker, outcome)
                elif outcome.failure == "died" and item not in tried:
                    tried.add(item)  # perhaps the kernel wanted memory: that is not its fault
                    waiting.append(item)
                else:
                    outcomes[item] = outcome
                if not worker.alive:
                    self._workers.remove(worker)
        return outcomes

    def _wait(self) -> list["_Worker"]:
        """The workers that have something to say, or have passed their time."""
        busy = [w for w in self._workers if w.item is not None or not w.ready]
        left = min(w.deadline for w in busy) - time.monotonic()
        said = connection.wait([w.pipe for w in busy], max(left, 0.0))
        now = time.monotonic()
        return [w for w in busy if w.pipe in said or w.deadline <= now]

    def _started(self, worker: "_Worker", outcome: Outcome) -> None:
        if worker.ready:
            self._failed_starts = 0
            return
        self._failed_starts += 1
        if self._failed_starts >= _TRIES or outcome.failure.startswith("error"):
            self._failed_starts = 0
            self.close()
            raise RuntimeError(f"no worker for {self._function} can start: {outcome.failure}")


class _Worker:
    """One process; `item` is the number of what it works on."""

    def __init__(self, function: str, limit_s: float):
        self.pipe, theirs = connection.Pipe()
        self.item: int | None = None
        self.ready = False
        self.alive = True
        self._limit_s = limit_s
        with theirs:
            code = f"from {__name__} import serve; serve({theirs.fileno()})"
            path = [entry or os.curdir for entry in sys.path]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno()],
                # What may be imported here may be imported there.
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us; we end the workers
            )
        self.deadline = time.monotonic() + _START_S
        self._send((function, limit_s + _GRACE_S))

    def runs(self) -> bool:
        """False once the process has ended."""
        if self.ready and self._process.poll() is not None:
            self.kill()
        return self.alive

    def give(self, item: int, arguments: tuple) -> None:
        self.item = item
        self.deadline = time.monotonic() + self._limit_s
        self._send(arguments)

    def take(self) -> Outcome:
        """The outcome of the item, or of the start; ends a worker that has failed."""
        try:
            outcome = Outcome(*self.pipe.recv()) if self.pipe.poll() else Outcome(None, "timeout")
        except (EOFError, OSError):
            outcome = Outcome(None, "died")
        self.ready = self.ready or outcome == Outcome("ready")
        self.item = None
        if outcome.failure in ("timeout", "died") or not self.ready:
            self.kill()
        return outcome

    def kill(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        self.pipe.close()

    def _send(self, message: Any) -> None:
        # A worker that has died is found out when its answer is taken.
        with contextlib.suppress(OSError):
            self.pipe.send(message)


def serve(descriptor: int) -> None:
    """The whole life of a worker: imports the function, then item by item until we hang up."""
    with contextlib.suppress(EOFError, OSError), connection.Connection(descriptor) as pipe:
        function, limit_s = pipe.recv()
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        module, _, name = function.partition(":")
        try:
            run = getattr(importlib.import_module(module), name)
        except Exception as error:
            pipe.send((None, f"error: {error!r}"))
            return
        pipe.send(("ready", ""))
        while True:
            item = pipe.recv()
            # Nobody can kill a worker once its parent is gone, so the kernel does: the default
            # action of this signal ends the process, whatever it is doing.
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            try:
                outcome = (run(*item), "")
            except Exception as error:
                outcome = (None, f"error: {error!r}"[:300])
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(outcome)
