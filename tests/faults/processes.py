"""Runs of real processes that are ended, or that start at once."""

import os
import pathlib
import subprocess
import sys
import time

from faults import warm

ROOT = pathlib.Path(__file__).parents[2]
_SECONDS = 300
# Ends this process before a file call, and runs `main` until then.
_VICTIM = """
import os, sys
sys.path.insert(0, "tests")
from faults import calls, warm
at, workdir = int(sys.argv[1]), sys.argv[2]
def end(number, kind, path):
    if number == at:
        os._exit(9)
with calls.watch(workdir, end, changing=True):
    sys.exit(warm.run(workdir).status)
"""


def end_at(workdir, call):
    """Ends a run by os._exit at a file call; returns its status."""
    words = [sys.executable, "-c", _VICTIM, str(call), str(workdir)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, timeout=_SECONDS).returncode


def end_after(workdir, seconds):
    """Ends a run by SIGKILL after some time; returns its status."""
    process = _start(workdir)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    return process.returncode


def two(workdir, pause):
    """The outcomes of two runs that start in one directory, some seconds apart."""
    first = _start(workdir)
    time.sleep(pause)
    second = _start(workdir)
    texts = [process.communicate(timeout=_SECONDS)[0] for process in (first, second)]
    return [warm.Outcome(p.returncode, text) for p, text in zip((first, second), texts)]


def _start(workdir):
    return subprocess.Popen(
        [sys.executable, "-m", "diffpo_jax.main", *warm.WORDS, f"--workdir={workdir}"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
