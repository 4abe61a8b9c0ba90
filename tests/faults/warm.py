"""Runs `main` in this process again and again: every program is traced and compiled once."""

import contextlib
import functools
import logging as stdlib_logging
import os
import sys
import threading
import types
from typing import NamedTuple

import commands
import jax
import numpy as np
from absl import logging
from least import LEAST

from diffpo_jax.report import figures
from diffpo_jax.system.files import write_atomic

# A smaller run than `LEAST` would save no step twice, or evaluate nothing.
WORDS = [
    "--config=configs/sudoku.py:smoke",
    "--num_processes=1",  # JAX joins others only once in a process
    *(f"--config.{name}={value}" for name, value in LEAST.items()),
]


class Outcome(NamedTuple):
    """How a command ended, and all that it and its libraries printed."""

    status: int
    text: str


def run(workdir, *words):
    """Runs `main`, as small as it can be."""
    with _output() as printed:
        try:
            status = commands.run("main", *WORDS, f"--workdir={workdir}", *words)
        except Exception:  # what would end the command by a traceback
            sys.excepthook(*sys.exc_info())
            status = 1
        # The end of a process waits for its threads, too.
        for thread in threading.enumerate():
            if thread.name.startswith(("async_save", "save_finalize")):
                thread.join()
    return Outcome(status, b"".join(printed).decode(errors="replace"))


@contextlib.contextmanager
def _output():
    """Collects what anything in this process prints within the block, through a pipe."""
    streams, printed = {1: sys.stdout, 2: sys.stderr}, []
    source, sink = os.pipe()
    parts = iter(lambda: os.read(source, 1 << 16), b"")
    reader = threading.Thread(target=printed.extend, args=(parts,))
    reader.start()
    kept = {number: os.dup(number) for number in streams}
    opened = {number: os.fdopen(os.dup(sink), "w", buffering=1) for number in streams}
    try:
        for number in streams:
            os.dup2(sink, number)
        os.close(sink)
        sys.stdout, sys.stderr = opened[1], opened[2]
        yield printed
    finally:
        sys.stdout, sys.stderr = streams[1], streams[2]
        for number, before in kept.items():
            os.dup2(before, number)
            os.close(before)
            opened[number].close()
        reader.join()
        os.close(source)


@contextlib.contextmanager
def programs():
    """Keeps traced and compiled programs from run to run within the block, and draws nothing."""
    # As in a process that begins by a command.
    stdlib_logging.getLogger().handlers = [logging.get_absl_handler()]
    jit, shape, draw = jax.jit, jax.eval_shape, figures.save
    kept = {}

    def keeping(make, arrays):
        @functools.wraps(make)
        def of(function, *args, **more):
            try:
                key = make, _key(function), _key((args, more), arrays)
                hash(key)
            except TypeError:
                return make(function, *args, **more)
            if key not in kept:
                kept[key] = make(function, *args, **more)
            return kept[key]

        return of

    jax.jit, jax.eval_shape = keeping(jit, arrays=False), keeping(shape, arrays=True)
    figures.save = lambda figure, path: write_atomic(path, b"a figure")
    try:
        yield
    finally:
        jax.jit, jax.eval_shape, figures.save = jit, shape, draw


def _key(x, arrays=False):
    """What a function computes: its code, and what it holds.

    Raises `TypeError` if that holds arrays, unless only their shapes count.
    """
    if isinstance(x, types.MethodType):
        return _key(x.__func__), _key(x.__self__)
    if isinstance(x, functools.partial):
        return _key(x.func), _key(x.args), _key(x.keywords)
    if isinstance(x, types.FunctionType):
        held = tuple(_key(cell.cell_contents) for cell in x.__closure__ or ())
        return x.__code__, held, _key(x.__defaults__), _key(x.__kwdefaults__)
    if isinstance(x, (jax.Array, np.ndarray)):
        if arrays:
            return x.shape, str(x.dtype)
        raise TypeError("an array")
    if isinstance(x, dict):
        return tuple((k, _key(v, arrays)) for k, v in x.items())
    if isinstance(x, (tuple, list)):
        return type(x), tuple(_key(v, arrays) for v in x)
    hash(x)
    return x
