"""Signals within a stage and outside; whole runs that get them are in tests/run/test_resume.py."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from diffpo_jax.arrays.types import TrainState
from diffpo_jax.config import CheckpointConfig, Config, TokenizerConfig
from diffpo_jax.data import prompts, tokenizers
from diffpo_jax.distributed import preemption
from diffpo_jax.run import stage
from diffpo_jax.system import errors
from diffpo_jax.tasks.task import Example
from diffpo_jax.workdir import layout
from diffpo_jax.workdir.metrics import MetricsWriter, read

ROOT = pathlib.Path(__file__).parents[2]
MESSAGE = "stopping when this step is done and saved; a second one stops at once.\n"
BOTH = pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")]
)


@BOTH
def test_a_stage_ends_with_the_step_in_progress(tmp_path, capfd, number, name):
    """A signal during step 3 of 5; only the last step would be saved otherwise."""
    tokenizer = tokenizers.make_tokenizer(TokenizerConfig())
    examples = [Example(str(i), "1", "2") for i in range(4)]
    data = prompts.make_iterator(examples, tokenizer, prompt_length=2, length=1, batch=2, seed=0)
    state = jax.device_put(TrainState(jnp.int32(0), {"denoiser": {"w": jnp.ones(2)}}, ()))
    config = dataclasses.replace(Config(), checkpoint=CheckpointConfig(every=100))
    saved = tmp_path / "saved"
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        workdir = layout.Workdir(tmp_path)
        setup = types.SimpleNamespace(config=config, writer=writer, workdir=workdir)
        with (
            pytest.raises(errors.Stopped) as stopped,
            stage.start(setup, "rl", 5, saved, data, state, lambda: state) as loop,
        ):
            for step, _ in loop.steps():
                if step == 3:
                    os.kill(os.getpid(), number)
                loop.log(step, {"reward": 1.0})
                loop.save(step, loop.state)
                loop.end_step(step, reward=1.0)
    assert str(stopped.value) == (
        f"rl: stopped at step 3 after {name}; the same command resumes there."
    )
    assert [p.name for p in saved.iterdir()] == ["3"]  # complete, and no temporary directory
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert capfd.readouterr().err.startswith(f"{name}: {MESSAGE}")


def in_child(program):
    """Exit status and standard error of a program that may use `Notice`."""
    head = "import os, signal, time\nfrom diffpo_jax.distributed import preemption\n"
    out = subprocess.run(
        [sys.executable, "-c", head + program],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    return out.returncode, out.stderr


@BOTH
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_immediately(number, name, second):
    status, error = in_child(
        "with preemption.Notice() as notice:\n"
        "    assert not notice.given()\n"
        f"    os.kill(os.getpid(), {number:d})\n"
        "    assert notice.given()\n"
        f"    os.kill(os.getpid(), {second:d})\n"
        "    time.sleep(60)\n"
    )
    assert status == -second, error
    assert error == f"{name}: {MESSAGE}"


def test_a_sigterm_after_the_last_step_ends_the_process():
    status, error = in_child(
        "with preemption.Notice():\n    os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n"
    )
    assert status == -signal.SIGTERM, error


def test_a_ctrl_c_after_the_last_step_interrupts():
    status, error = in_child(
        "try:\n"
        "    with preemption.Notice():\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    os._exit(7)\n"
    )
    assert status == 7, error


def test_the_previous_handler_is_restored():
    def other(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, other)
    try:
        with preemption.Notice():
            assert signal.getsignal(signal.SIGTERM) != other
        assert signal.getsignal(signal.SIGTERM) == other
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_is_not_hidden_by_sigterm():
    with pytest.raises(errors.UserError, match="disk"), preemption.Notice():
        os.kill(os.getpid(), signal.SIGTERM)
        raise errors.UserError("disk")
