"""A watcher process that prints a readable error after JAX's runtime aborts this one.

When one process of a run dies, the runtime of the others aborts them from a thread of its own, with
a C++ stack trace; no Python code runs any more. But Python's fault handler still writes to the file
descriptor it was given. Here that is a pipe to a second process, this file, which copies what it
reads to standard error and adds a message.
"""

import faulthandler
import signal
import subprocess
import sys

_ABORTED = b"Fatal Python error: Aborted"


def start(message: str) -> None:
    """Starts the watcher: if this process aborts, it prints the message on standard error."""
    watcher = subprocess.Popen(
        [sys.executable, "-I", __file__, message],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # signals to this process's group must not end the watcher
    )
    faulthandler.enable(watcher.stdin, all_threads=False)


def _watch(message: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    output = sys.stdin.buffer.read()  # until the watched process has ended
    sys.stderr.buffer.write(output)
    if output.startswith(_ABORTED):
        print(f"error: {message}", file=sys.stderr)


if __name__ == "__main__":
    _watch(sys.argv[1])
