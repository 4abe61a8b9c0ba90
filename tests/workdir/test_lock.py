"""Two commands in one directory: the second is refused, and no lock outlives its process."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import lock

ROOT = pathlib.Path(__file__).parents[2]
HOLD = "import sys, time; from diffpo_jax.workdir import lock\n"
HOLD += "with lock.hold(sys.argv[1]): print('held', flush=True); time.sleep(100)"


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_told_who_has_it(tmp_path, holder):
    message = (
        rf"run is in use by process {holder.pid} on \S+ \(-c, since 20.*\). Wait until it has "
        "ended, stop it, or choose another --workdir."
    )
    with pytest.raises(UserError, match=message), lock.hold(tmp_path / "run"):
        pass


def test_the_lock_of_a_killed_process_is_gone(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with lock.hold(tmp_path / "run"):
        text = (tmp_path / "run" / lock.NAME).read_text()
        assert text.startswith(f"process {os.getpid()} on ")
        assert str(holder.pid) not in text.split()


def test_a_lock_ends_with_its_block(tmp_path):
    with pytest.raises(ValueError), lock.hold(tmp_path):
        with pytest.raises(UserError, match="in use by process"), lock.hold(tmp_path, "--out"):
            pass
        raise ValueError
    with lock.hold(tmp_path):
        pass


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write to the workdir .*another with --out\."),
        lock.hold(tmp_path / "file" / "run", "--out"),
    ):
        pass


def test_a_child_does_not_inherit_the_lock(tmp_path):
    with lock.hold(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    time.sleep(0.1)
    try:
        with lock.hold(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()
