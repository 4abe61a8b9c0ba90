"""When SIGTERM is heeded, to the step; whole runs that get it are in test_resume.py."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from diffpo_jax.arrays.types import TrainState
from diffpo_jax.config import (
    CheckpointConfig,
    LoggingConfig,
    MeshConfig,
    PretrainConfig,
    RLConfig,
    TokenizerConfig,
)
from diffpo_jax.data import prompts, tokenizers
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.distributed import preemption
from diffpo_jax.rl import trainer
from diffpo_jax.run import pretrain
from diffpo_jax.system import errors
from diffpo_jax.tasks.task import Example
from diffpo_jax.workdir import checkpoints
from diffpo_jax.workdir.metrics import MetricsWriter, read

ROOT = pathlib.Path(__file__).parents[2]
SAID = "SIGTERM: stopping when this step is done and saved; a second one stops at once.\n"


@pytest.fixture
def stage(tmp_path):
    """What a stage of five steps is given; no step is saved but the last."""
    tokenizer = tokenizers.make_tokenizer(TokenizerConfig())
    examples = [Example(str(i), "1", "2") for i in range(4)]
    iterator = prompts.make_iterator(
        examples, tokenizer, prompt_length=2, length=1, batch=2, seed=0
    )
    state = jax.device_put(TrainState(jnp.int32(0), {"denoiser": {"w": jnp.ones(2)}}, ()))
    config = CheckpointConfig(every=100)
    saved = checkpoints.Checkpoints(tmp_path / "saved", config, last_step=5)
    with saved, MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        yield state, iterator, saved, writer


def check_stopped_at_three(stage, name, run):
    _, _, saved, writer = stage
    with pytest.raises(errors.Stopped) as stopped:
        run()
    assert str(stopped.value) == (
        f"{name}: stopped at step 3 after SIGTERM; the same command goes on from there."
    )
    assert saved.latest() == 3
    assert [p.name for p in saved.directory.iterdir()] == ["3"]  # whole, and nothing half done
    assert [row["step"] for row in read(writer._path) if row["step"]] == [1, 2, 3]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_pretraining_ends_with_the_step_that_was_going_on(stage, capfd):
    state, iterator, saved, writer = stage

    def step(state, frozen, prompts, target, key):
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        one = (jnp.float32(1), jnp.float32(1))
        metrics = dict.fromkeys(("loss", "grad_norm", "masked_accuracy"), one)
        return state._replace(step=state.step + 1), metrics

    def run():
        pretrain.run(
            step,
            state,
            {},
            iterator,
            saved,
            writer,
            PretrainConfig(steps=5),
            mesh_lib.make_mesh(MeshConfig()),
            seed=0,
            start=0,
            log_every=1,
        )

    check_stopped_at_three(stage, "pretrain", run)
    assert capfd.readouterr().err.startswith(SAID)


def test_rl_ends_with_the_step_that_was_going_on(stage, monkeypatch):
    state, iterator, saved, writer = stage

    def step(self, state, batch, number, rate, mixed):
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        names = ("reward", "accuracy", "nfe", "gamma/p50", "calls/rollout", "calls/update")
        return state, dict.fromkeys(names, 1.0), {}, mixed

    monkeypatch.setattr(trainer.Trainer, "_step", step)
    loop = trainer.Trainer(*[None] * len(trainer.Trainer._fields))._replace(
        config=RLConfig(steps=5),
        frozen={},
        logging=LoggingConfig(every=1),
        evaluate=lambda params: {"eval/accuracy": 1.0},
        evaluate_every=0,
    )

    def run():
        loop.run(state, iterator, saved, writer, start=0, meta={})

    check_stopped_at_three(stage, "rl", run)


def in_child(program):
    """Exit status and standard error of a program that may need a notice."""
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


def test_the_second_notice_ends_at_once():
    status, error = in_child(
        "with preemption.Notice() as notice:\n"
        "    assert not notice.given()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert notice.given()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    assert status == -signal.SIGTERM, error
    assert error == SAID


def test_a_notice_that_comes_after_the_last_step_ends_at_once():
    status, error = in_child(
        "with preemption.Notice():\n    os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n"
    )
    assert status == -signal.SIGTERM, error


def test_what_was_there_before_is_there_again():
    def other(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, other)
    try:
        with preemption.Notice():
            assert signal.getsignal(signal.SIGTERM) != other
        assert signal.getsignal(signal.SIGTERM) == other
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_fault_is_not_hidden_by_a_notice():
    with pytest.raises(errors.UserError, match="disk"), preemption.Notice():
        os.kill(os.getpid(), signal.SIGTERM)
        raise errors.UserError("disk")
