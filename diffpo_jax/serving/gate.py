"""What every request passes: who may ask, the end of the server, and the log."""

import re
import time
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse

from diffpo_jax.serving.refusal import Refusal
from diffpo_jax.system.progress import say

NOTE = "diffpo_jax.note"  # in a request's scope: what its line in the log says besides


class Gate:
    """An ASGI middleware that counts requests, and refuses new ones once `draining` is set."""

    def __init__(self, app: Any, hosts: tuple[str, ...], log: Callable[[str], None] = say):
        """
        Args:
          hosts: names in the header Host that are answered; empty for all.  A web page that has
            its own name point to this machine could otherwise use the server of its visitor.
        """
        self._app, self._hosts, self._log = app, hosts, log
        self.draining = False
        self.active = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def noting(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        refusal = self._refusal(scope)
        self.active += 1
        try:
            if refusal:
                response = JSONResponse(refusal.body(), refusal.status)
                await response(scope, receive, noting)
            else:
                await self._app(scope, receive, noting)
        finally:
            self.active -= 1
            note = scope.get(NOTE, "")
            seconds = time.monotonic() - began
            if status >= 400 or note:
                clock = time.strftime("%H:%M:%S")
                line = f"{clock} {scope['method']} {scope['path']} {status or 'gone'}"
                self._log(f"{line} in {seconds:.2f} s{note and f': {note}'}")

    def _refusal(self, scope: Any) -> Refusal | None:
        if self.draining:
            return Refusal("The server is shutting down.", status=503, code="shutting_down")
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = re.sub(r":\d*$", "", host).strip("[]").lower()
        if self._hosts and name not in self._hosts:
            return Refusal(
                "This server answers to its own address only, not to the name in the header Host."
            )
        return None
