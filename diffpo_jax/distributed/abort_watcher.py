"""What is said when JAX's runtime ends a process: a sentence, by a process that listens.

Where one process of a run dies, the runtime of the others aborts them, from a thread of its own
and with a stack trace of C++; no line of Python runs any more.  But Python's fault handler still
writes to a descriptor that it was given.  Here that is a pipe, and at its other end waits a
program of a few lines, this file, which passes on what it reads and adds the sentence.
"""

import faulthandler
import signal
import subprocess
import sys

_ABORTED = b"Fatal Python error: Aborted"


def prepare(sentence: str) -> None:
    """From now on an abort of this process is followed by the sentence, on standard error."""
    listener = subprocess.Popen(
        [sys.executable, "-I", __file__, sentence],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # it is to hear the end, whatever is sent to this process's group
    )
    faulthandler.enable(listener.stdin, all_threads=False)


def _listen(sentence: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    said = sys.stdin.buffer.read()  # until the other process has ended
    sys.stderr.buffer.write(said)
    if said.startswith(_ABORTED):
        print(f"error: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    _listen(sys.argv[1])
