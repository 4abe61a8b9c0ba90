"""Signals to stop: SIGTERM, which clusters send before they take a machine away, and Ctrl-C.

A stage in training finishes its step, saves it and raises `errors.Stopped` (see `run.stage`).  All
hosts stop if one gets a signal: they ask each other after every step.  JAX's own service is not
used: it swallows the second signal, and the step it sets for stopping may come after the last one.

Before and between stages, and during the final evaluation, nothing would be lost: there signals
keep their usual actions and end the process immediately.
"""

import contextlib
import os
import signal
from typing import Any

from diffpo_jax.distributed import hosts

# The signals, and what people call them.
SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Notice:
    """Catches signals to stop in a `with` block of the main thread: ends on the second.

    If `given` returns true, the block must save and raise; otherwise it must wait until everything
    is written before it ends.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Notice":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        if kind is None and self._noted is not None:
            # The signal came after the last step was saved; treat it like one that comes now.
            signal.raise_signal(self._noted)

    @property
    def name(self) -> str:
        """What stopped the run; another host does not say which signal it got."""
        return SIGNALS.get(self._noted, "a signal to another host")

    def given(self) -> bool:
        """Whether any host got a signal; every host must call this at the same point."""
        return hosts.any_of(self._noted is not None)

    def _note(self, number: int, frame: Any) -> None:
        self._noted = number
        for other in SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        message = (
            f"{SIGNALS[number]}: stopping when this step is done and saved; a second one stops "
        )
        # Not print, which the signal may have interrupted.  Standard error may be closed.
        with contextlib.suppress(OSError):
            os.write(2, f"{message}at once.\n".encode())
