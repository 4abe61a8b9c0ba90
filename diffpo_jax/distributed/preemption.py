"""SIGTERM, which machines and clusters send before they take a machine away.

A stage in training finishes its step, saves it and raises `errors.Stopped` (see `run.stage`).  All
hosts stop if one gets the signal: they ask each other after every step.  JAX's own service is not
used: it swallows the second signal, and the step it sets for stopping may come after the last one.

Before and between stages, and during the final evaluation, nothing would be lost: there SIGTERM
keeps its default action and ends the process immediately.
"""

import contextlib
import os
import signal
from typing import Any

from diffpo_jax.distributed import hosts

_MESSAGE = b"SIGTERM: stopping when this step is done and saved; a second one stops at once.\n"


class Notice:
    """Catches SIGTERM in a `with` block of the main thread: notes the first, ends on the second.

    If `given` returns true, the block must save and raise; otherwise it must wait until everything
    is written before it ends.
    """

    def __init__(self) -> None:
        self._noted = False
        self._before: Any = None

    def __enter__(self) -> "Notice":
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        before = self._before
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if kind is None and self._noted:
            # The signal came after the last step was saved; treat it like one that comes now.
            signal.raise_signal(signal.SIGTERM)

    def given(self) -> bool:
        """Whether any host got the signal; every host must call this at the same point."""
        return hosts.any_of(self._noted)

    def _note(self, number: int, frame: Any) -> None:
        self._noted = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Not print, which the signal may have interrupted.  Standard error may be closed.
        with contextlib.suppress(OSError):
            os.write(2, _MESSAGE)
