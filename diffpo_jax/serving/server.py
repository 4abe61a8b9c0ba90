"""Runs the server until a signal: the first lets running requests finish, a second one ends it."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from typing import Any

import uvicorn

from diffpo_jax.serving.gate import Gate

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
_POLL_SECONDS = 0.05


class Server(uvicorn.Server):
    """Serves an application on a socket that listens already."""

    def __init__(self, gate: Gate):
        super().__init__(
            uvicorn.Config(
                gate,
                http="h11",
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
            )
        )
        self._gate = gate
        self.ended_by: int | None = None  # the second signal

    def run_on(self, listening: socket.socket) -> None:
        """Serves until a signal.

        Raises:
          SystemExit: a second signal came, with the usual status.
        """
        asyncio.run(self._serve_until_drained(listening))
        if self.ended_by is not None:
            raise SystemExit(128 + self.ended_by)

    def drain(self) -> None:
        """Refuses new requests, and ends the server once those that run are answered."""
        self._gate.draining = True

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Called by uvicorn for every signal, in the main thread."""
        if self._gate.draining:
            self.ended_by = sig
            # It would log a traceback for each request that is cut off.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
            self.should_exit = self.force_exit = True
            return
        self.drain()
        name = _NAMES.get(sig, str(sig))
        message = f"{name}: finishing the requests that run; a second one stops at once.\n"
        # Not print, which the signal may have interrupted.  Standard error may be closed.
        with contextlib.suppress(OSError):
            os.write(2, message.encode())

    async def _serve_until_drained(self, listening: socket.socket) -> None:
        watch = asyncio.create_task(self._watch())
        await self.serve([listening])
        watch.cancel()

    async def _watch(self) -> None:
        while not (self._gate.draining and self._gate.active == 0):
            await asyncio.sleep(_POLL_SECONDS)
        self.should_exit = True
