"""Functions for tests of the worker pool that hang, crash, or exceed their limits."""

import ctypes
import os
import signal
import sys
import time


def act(what, value=None):
    """Does what `what` names, and returns `value` if it returns at all."""
    if what == "hang":
        while True:
            time.sleep(1)
    if what == "hang in C":  # holds the interpreter's lock, like a huge power
        ctypes.PyDLL(None).sleep(3600)
    if what == "ignore":  # ignores the signals that ask it to end
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
    """For the verifier: runs `act(answer)`, and finds only the gold answer "same" equal."""
    act(answer)
    return gold == "same"
