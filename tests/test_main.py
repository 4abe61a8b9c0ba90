"""The command line: every mistake gives one line on stderr and exit status 2, before compiling."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from diffpo_jax.workdir import lock

ROOT = pathlib.Path(__file__).parent.parent


def run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "diffpo_jax.main", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.rl.step=3"], "config.rl.step is not a field of the configuration; the nearest"),
        (["--config.rl.steps=many"], "config.rl.steps"),
        (["--config.rl.micro_batch=many"], "config.rl.micro_batch='many' must be int (above 0)"),
        (["--config.sampler.block_length=3"], "block_length=3 does not divide"),
        (["--config.task.test_file=nowhere.csv"], "nowhere.csv"),
        (["--config.init_from=nowhere"], "nowhere holds no run"),
        (["--config.task.reward=best"], "config.task.reward='best' is unknown"),
        (["--config.mesh.data=48"], "config.mesh.fsdp=48 does not divide"),
        (["--config.model.family=gpt"], "config.model.family='gpt' is unknown"),
        (["--config.sampler.prompt_length=8", "--config.model.positions=64"], "prompt_length"),
        (["extra"], "unexpected argument 'extra'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, flags, message):
    out = run("--config=configs/sudoku.py:smoke", f"--workdir={tmp_path}", *flags)
    assert out.returncode == 2, out.stderr
    last = out.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in out.stderr
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "config.json").exists()  # the corrected command may use the workdir


def test_help_is_no_failure():
    out = run("--help")
    assert out.returncode == 0
    assert "--workdir" in out.stdout


def test_a_second_command_in_the_same_workdir_is_refused(tmp_path):
    with lock.hold(tmp_path):
        out = run("--config=configs/sudoku.py:smoke", f"--workdir={tmp_path}")
    assert out.returncode == 2, out.stderr
    assert f"{tmp_path} is in use by process {os.getpid()}" in out.stderr.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == [lock.NAME]


def test_ctrl_c_outside_training_is_one_line(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "diffpo_jax.main", "--config=configs/sudoku.py:smoke",
         f"--workdir={tmp_path}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    limit = time.monotonic() + 100
    while not (tmp_path / "samples").exists():  # it prepares the run
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=100)[1]
    assert process.returncode == 130, error
    assert error.splitlines()[-1].startswith("stopped by Ctrl-C; what was saved before")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config is missing"),
        (["--config=configs/sudoku.py"], "--workdir is missing"),
        (["--config=configs/sudoku.py:huge", "--workdir=x"], "has no preset 'huge'"),
        (["--config=configs/nothing.py", "--workdir=x"], "nothing.py"),
        (
            ["--config=configs/studies/figure3.py", "--workdir=x"],
            "--config names a study; run it with `python -m diffpo_jax.study`",
        ),
        (["--config=configs/sudoku.py", "--workdir=/dev/null/run"], "/dev/null is not a directory"),
    ],
)
def test_missing_or_wrong_flags(flags, message):
    out = run(*flags)
    assert out.returncode == 2, out.stderr
    assert message in out.stderr.strip().splitlines()[-1]
    assert "Traceback" not in out.stderr


def test_the_line_of_a_config_file_that_fails_is_named(tmp_path):
    code = "def get_config(preset='default'):\n    return {}['reverse']\n"
    (tmp_path / "mine.py").write_text(code)
    out = run(f"--config={tmp_path / 'mine.py'}:smoke", "--workdir=x")
    assert out.returncode == 2, out.stderr
    last = f"error: config file {tmp_path}/mine.py, line 2: KeyError: 'reverse'."
    assert out.stderr.strip().splitlines()[-1] == last
