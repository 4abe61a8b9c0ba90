"""Functions for tests of the worker pool: what items may do to a worker."""

import ctypes
import os
import signal
import sys
import time


def act(what, value=None):
    """Does what it is told, and returns `value` where it comes back at all."""
    if what == "hang":
        while True:
            time.sleep(1)
    if what == "hang in C":  # holds the interpreter's lock, as a huge power would
        ctypes.PyDLL(None).sleep(3600)
    if what == "ignore":  # refuses to be asked
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(1)
    if what == "exit":
        os._exit(3)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "raise":
        raise ValueError(value)
    if what == "memory":
        return len("x" * (1 << 40))
    if what == "sleep":
        time.sleep(value)
    if what == "modules":
        return sorted(sys.modules)
    if what == "pid":
        return os.getpid()
    return value


def equal(gold, answer):
    """For the verifier: acts on `answer`, or compares."""
    act(answer)
    return gold == "same"
