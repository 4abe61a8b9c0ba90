"""The command `serve` as a process: signals, addresses, and runs without a model."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import commands
import pytest
import served
from served import PUZZLE

from diffpo_jax.config import convert
from diffpo_jax.system import ports
from diffpo_jax.system.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
# The command with calls that take a tenth of a second, so that a signal comes during a request.
SLOW = """
import runpy, sys, time
from diffpo_jax.serving import batch
call = batch.Batch.call
batch.Batch.call = lambda self: (time.sleep(0.1 if self.running else 0), call(self))[1]
runpy.run_module("diffpo_jax.serve", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return served.make_run(tmp_path_factory.mktemp("command") / "run")


@contextlib.contextmanager
def process(workdir, *words):
    """A server in a process of its own, and a client of it."""
    flags = ["--port=0", "--model=trained", "--config.sampler.slots=1", *words]
    made = subprocess.Popen(
        [sys.executable, "-c", SLOW, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = made.stdout.readline()
        assert first.startswith("page:"), made.communicate()[1]
        yield made, served.Client(int(re.search(r":(\d+)/$", first)[1]))
    finally:
        made.kill()
        made.wait()


@pytest.mark.slow
def test_sigterm_finishes_what_runs_and_exits_with_zero(workdir):
    with process(workdir) as (made, client), contextlib.closing(client.connect()) as asking:
        client.send(asking, "/v1/completions", {"prompt": PUZZLE, "gamma": 0})
        served.until(lambda: client.get("/health")[1]["models"]["trained"]["running"] == 1)
        made.send_signal(signal.SIGTERM)
        served.until(lambda: client.get("/health")[0] == 503)
        status, body = client.post("/v1/completions", {"prompt": PUZZLE})
        assert (status, body["error"]["message"]) == (503, "The server is shutting down.")
        status, body = served.answer(asking)
        assert (status, body["usage"]["calls"]) == (200, 16)
        _, errors = made.communicate(timeout=30)
        assert made.returncode == 0
    assert "SIGTERM: finishing the requests that run; a second one stops at once." in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_second_signal_stops_at_once(workdir):
    with process(workdir) as (made, client), contextlib.closing(client.connect()) as asking:
        client.send(asking, "/v1/completions", {"prompt": [PUZZLE] * 8, "gamma": 0})
        served.until(lambda: client.get("/health")[1]["models"]["trained"]["running"] == 1)
        made.send_signal(signal.SIGINT)
        served.until(lambda: client.get("/health")[0] == 503)
        made.send_signal(signal.SIGINT)
        _, errors = made.communicate(timeout=10)  # the request needs 13 s
        assert made.returncode == 130
    assert "Ctrl-C: finishing the requests" in errors and "Traceback" not in errors


def test_two_servers_on_one_port_are_one_line(workdir, capsys):
    with ports.listen("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        assert commands.run("serve", f"--workdir={workdir}", f"--port={port}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot listen on 127.0.0.1, port {port}: Address already in")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--workdir={new}", "holds no run to take it from"),
        ("--workdir={empty}", "the run has no trained model yet"),
        ("--workdir={empty} --model=best", "flag --model=best"),
        ("--workdir={run} --host=nowhere.invalid", "--host=nowhere.invalid: "),
        ("--workdir={run} --port=70000", "port"),
        ("--workdir={run} --config.sampler.rule=state", "needs a head that RL trained"),
        ("--workdir={run} --config.sampler.slot=3", "nearest is config.sampler.slots"),
    ],
)
def test_mistakes_are_one_line(workdir, tmp_path, capsys, words, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text(convert.to_json(served.config()))
    places = {"new": tmp_path / "new", "empty": empty, "run": workdir}
    assert commands.run("serve", *words.format(**places).split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_a_base_without_a_checkpoint_is_one_line(tmp_path, capsys):
    (tmp_path / "config.json").write_text(convert.to_json(served.config()))
    assert commands.run("serve", f"--workdir={tmp_path}", "--model=base", "--port=0") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: no checkpoints in ")


def test_addresses():
    hosts = "127.0.0.1", "localhost", "::1", "0.0.0.0", "192.0.2.1"
    assert [ports.is_local(host) for host in hosts] == [True, True, True, False, False]
    with ports.listen("0.0.0.0", 0) as listening:
        port = listening.getsockname()[1]
        assert ports.url(listening) == f"http://localhost:{port}"
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(UserError, match=f"port {port}: Address already in use"):
            ports.listen("0.0.0.0", port)
