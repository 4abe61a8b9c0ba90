"""SIGTERM, which machines and clusters send before they take a machine away.

A stage that trains goes on to the end of its step, saves it and raises `errors.Stopped`.  One
host's notice is all hosts': they ask each other after every step.  JAX's own service is not used:
it swallows the second signal, and fixes a step to stop at that may lie behind the stage's last.

Where nothing would be lost, before and between stages and while the final evaluation runs, SIGTERM
keeps its default action and ends the process at once.
"""

import contextlib
import os
import signal
from typing import Any

from diffpo_jax.distributed import hosts
from diffpo_jax.system.errors import Stopped
from diffpo_jax.workdir.checkpoints import Checkpoints

_SAID = b"SIGTERM: stopping when this step is done and saved; a second one stops at once.\n"


class Notice:
    """Heeds SIGTERM within a `with` block of the main thread: the first is noted, the second ends.

    The block must end in `stop` where `given` was true, and otherwise wait for what is being
    written.
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
            # It came when the last step had been written: as if it had come a moment later.
            signal.raise_signal(signal.SIGTERM)

    def given(self) -> bool:
        """Whether any host was told to stop; all hosts ask at the same moment."""
        return hosts.any_of(self._noted)

    def _note(self, number: int, frame: Any) -> None:
        self._noted = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Not print, which the signal may have come in the middle of.  Who reads it may be gone.
        with contextlib.suppress(OSError):
            os.write(2, _SAID)


def stop(stage: str, step: int, checkpoints: Checkpoints) -> None:
    """Waits for the checkpoint of the step and ends the run.

    Raises:
      Stopped: always, unless a `UserError` says that the checkpoint could not be written.
    """
    checkpoints.wait()
    raise Stopped(
        f"{stage}: stopped at step {step} after SIGTERM; the same command goes on from there."
    )
