"""The thread that runs the models: one queue for each, and calls in turn.

A request's row begins as soon as a slot is free, between two calls of the rows that run already,
and leaves it after its last call or when nobody waits for it any more.
"""

import collections
import threading
import traceback
from collections.abc import Mapping, Sequence

from diffpo_jax.serving.batch import Batch, Row
from diffpo_jax.system.progress import say


class Full(Exception):
    """Too many rows wait already."""


class Closed(Exception):
    """The engine has ended, or ends."""


class Engine:
    """Runs batches in a thread of its own, from `start` to `close`."""

    def __init__(self, batches: Mapping[str, Batch], most_waiting: int = 4_096):
        """
        Args:
          batches: by the name of the model.
          most_waiting: rows of a model that may wait for a slot.
        """
        self._batches = dict(batches)
        self._waiting = {name: collections.deque() for name in batches}
        self._most = most_waiting
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, model: str, rows: Sequence[Row]) -> None:
        """Queues rows; their `tell` is called from the engine's thread.

        Raises:
          Full: as many rows wait already.
          Closed: after `close`.
        """
        with self._changed:
            if self._closed:
                raise Closed
            queue = self._waiting[model]
            if len(queue) + len(rows) > self._most:
                raise Full
            queue.extend(rows)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the call that it makes; rows that are not done get `Closed`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def state(self) -> dict[str, dict[str, int]]:
        """How many rows run and wait, by model."""
        return {
            name: {"running": batch.running, "waiting": len(self._waiting[name])}
            for name, batch in self._batches.items()
        }

    def _run(self) -> None:
        while self._wait():
            for name, batch in self._batches.items():
                try:
                    if new := self._next(name, batch.free):
                        batch.put(new)
                    batch.call()
                except Exception as error:  # of the device, such as no memory left
                    say(traceback.format_exc().rstrip())
                    batch.fail(error)
        for name, batch in self._batches.items():
            for row in self._next(name, len(self._waiting[name])):
                row.tell(Closed())
            batch.fail(Closed())

    def _wait(self) -> bool:
        """Waits for a row to run; returns whether to go on."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or any(self._waiting.values())
                    or any(batch.running for batch in self._batches.values())
                )
            )
            return not self._closed

    def _next(self, name: str, most: int) -> list[Row]:
        """Takes up to `most` rows from a queue, without those that are cancelled."""
        taken, queue = [], self._waiting[name]
        with self._changed:
            while queue and len(taken) < most:
                row = queue.popleft()
                if not row.cancelled:
                    taken.append(row)
        return taken
