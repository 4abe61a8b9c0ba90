"""Real processes on this machine joined as on a pod, and the error of each failure."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from least import LEAST

from diffpo_jax.distributed import hosts
from diffpo_jax.system.errors import STOPPED, UserError
from diffpo_jax.workdir import metrics

ROOT = pathlib.Path(__file__).parent.parent.parent
# Partly correct grids are rewarded, so that there are advantages to learn from.
RUN = LEAST | {
    "task.reward": "cell_fraction",
    "mesh.data": 2,
    "evaluation.every": 4,
    "pretrain.steps": 200,
    "checkpoint.every": 1000,  # only at the last step, or when a run is stopped
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(workdir, *flags, devices=1, **changes):
    """Starts one process of a run, without the eight devices of this process."""
    flags = [f"--workdir={workdir}", *flags]
    flags += [f"--config.{name}={value}" for name, value in (RUN | changes).items()]
    count = f"--xla_force_host_platform_device_count={devices}"
    xla = f"{count} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        [sys.executable, "-m", "diffpo_jax.main", "--config=configs/sudoku.py:smoke", *flags],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(workdirs, changes=({}, {}), *flags, during=lambda running: None):
    """Runs two processes as one run; returns exit status, standard output and error of each.

    `during` is called with both once they are started.
    """
    join = f"--coordinator=localhost:{free_port()}", "--num_processes=2", *flags
    running = [
        start(workdir, *join, f"--process_id={i}", **change)
        for i, (workdir, change) in enumerate(zip(workdirs, changes))
    ]
    try:
        during(running)
        outputs = [process.communicate(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(running, outputs)]


def lines(workdir):
    path = workdir / "metrics.jsonl"
    return metrics.read(path) if path.exists() else []


def one_process(workdir, **changes):
    """The standard error of a run by one process with two devices, which must succeed."""
    process = start(workdir, devices=2, **changes)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    return error


def wait_for_line(running, workdir, stage, step):
    """Waits until the metrics have reached a step."""
    end = time.monotonic() + 200
    while not any((line["stage"], line["step"]) == (stage, step) for line in lines(workdir)):
        assert all(process.poll() is None for process in running), "ended too soon"
        assert time.monotonic() < end, f"never came to step {step} of {stage}"
        time.sleep(0.005)


def assert_same_numbers(workdir, other):
    for ours, theirs in zip(lines(workdir), lines(other), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"stage"}:
            if not name.startswith("time/"):
                # Sums over devices go through a network here, and in another order.
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_process_with_two_devices(tmp_path):
    both, one = tmp_path / "both", tmp_path / "one"

    # A signal to one process stops both at the same step, although no checkpoint is due.
    def stop_the_second(running):
        wait_for_line(running, both, "pretrain", 10)
        running[1].send_signal(signal.SIGTERM)

    results = together([both, both], during=stop_the_second)
    assert [status for status, *_ in results] == [STOPPED] * 2, results[0][2] + results[1][2]
    step = lines(both)[-1]["step"]
    assert 10 <= step < RUN["pretrain.steps"]
    assert [p.name for p in (both / "checkpoints" / "base").iterdir()] == [str(step)]
    for (_, _, error), cause in zip(results, ("a signal to another host", "SIGTERM")):
        assert f"pretrain: stopped at step {step} after {cause};" in error.splitlines()[-1]

    # The same command resumes, and gives the numbers of one process that is not stopped.
    (first, out, error), (second, silent, other) = together([both, both])
    assert (first, second) == (0, 0), error + other
    assert f"pretrain: resuming after step {step}" in error
    one_process(one)
    assert "report:" in out
    assert "report:" not in silent  # only process 0 prints the result
    ours = lines(both)
    assert len(ours) == RUN["pretrain.steps"] + 3  # each line once, not once per process
    assert any(line.get("grad_norm/denoiser", 0) > 0 for line in ours)
    assert_same_numbers(both, one)
    for name in ("samples/rl-000001.jsonl", "samples/test.jsonl", "report/frontier.png"):
        assert (both / name).exists()
    assert not list(both.glob(".preflight-*"))

    # More steps resume on another number of processes: from two to one, and from one to two.
    more = {"rl.steps": 3}
    results = together([one, one], (more, more))
    assert [status for status, *_ in results] == [0, 0], results[0][2]
    for error in (results[0][2], one_process(both, **more)):
        assert "rl: resuming after step 2" in error
    assert [line["step"] for line in lines(both) if line["stage"] == "rl"] == [0, 1, 2, 3]
    assert_same_numbers(both, one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("directories", "changes", "sentence"),
    [
        (("a", "a"), ({}, {"seed": 1}), "has another configuration than process 0"),
        (("a", "b"), ({}, {}), "does not see in the workdir"),
        (("a", "/dev/null/b"), ({}, {}), "process 1 (HOST) cannot write to the workdir"),
        (("a", "a"), ({"mesh.data": 1}, {"mesh.data": 1}), "config.mesh uses 1 of 2 devices"),
    ],
)
def test_every_process_reports_a_failed_preflight(tmp_path, directories, changes, sentence):
    workdirs = [tmp_path / name for name in directories]
    for status, _, error in together(workdirs, changes):
        last = [line for line in error.splitlines() if line.startswith("error: ")]
        assert status == 2, error
        assert sentence.replace("HOST", socket.gethostname()) in last[-1]
        assert "Traceback" not in error


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_stays_alone_exits_in_time(tmp_path, process):
    join = f"--coordinator=localhost:{free_port()}", "--num_processes=2", "--start_seconds=2"
    alone = start(tmp_path, *join, f"--process_id={process}")
    _, error = alone.communicate(timeout=60)
    assert alone.returncode == 2, error
    assert "could not join the others within 2 s" in error.strip().splitlines()[-1]


def start_two(program):
    """Starts two processes of a program, which gets the coordinator's address and its own index."""
    address = f"localhost:{free_port()}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(i)],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]


JOINED = """
import sys, time
from diffpo_jax.distributed import hosts
hosts.initialize(hosts.Join(sys.argv[1], 2, int(sys.argv[2]), 60, 5))
hosts.any_of(False)
print("joined", flush=True)
while True:
    hosts.any_of(False)
    time.sleep(0.1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_if_one_process_is_killed_the_other_ends_with_an_error(killed):
    running = start_two(JOINED)
    try:
        for process in running:
            while (line := process.stdout.readline()) != "joined\n":
                assert line, process.communicate()
        running[killed].kill()
        began = time.monotonic()
        _, error = running[1 - killed].communicate(timeout=60)
    finally:
        for process in running:
            process.kill()
    assert running[1 - killed].returncode == -signal.SIGABRT
    assert time.monotonic() - began < 5 + 10  # the limit, and slack for a busy machine
    last = error.strip().splitlines()[-1]
    assert last.startswith(f"error: JAX's runtime has ended this process ({socket.gethostname()})")
    assert "did not answer for 5 s" in last
    _, error = running[killed].communicate()
    assert "error: " not in error  # kill -9 is not an abort


FAILING = """
import sys, time
from diffpo_jax.distributed import hosts
index = int(sys.argv[2])
hosts.initialize(hosts.Join(sys.argv[1], 2, index, 60, 5))
hosts.any_of(False)
with hosts.leaving_in_time():
    if index == 1:
        raise ArithmeticError("of this process alone")
    hosts.any_of(False)
"""


@pytest.mark.slow
def test_if_one_process_fails_alone_the_other_ends_too():
    """Without `leaving_in_time` both wait for each other for five minutes."""
    began = time.monotonic()
    running = start_two(FAILING)
    try:
        errors = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert time.monotonic() - began < 110
    assert "of this process alone" in errors[1]
    assert running[1].returncode == 1
    assert running[0].returncode != 0


@pytest.mark.parametrize(
    ("join", "message"),
    [
        (hosts.Join("localhost:1"), "go together"),
        (hosts.Join(None, 2, 0), "go together"),
        (hosts.Join("localhost:1", 2, 2), "counted from 0"),
    ],
)
def test_incomplete_flags_are_refused(join, message):
    with pytest.raises(UserError, match=message):
        hosts.initialize(join)


FACTS = {"host": "h0", "devices": 4, "config": "{}", "commit": "c"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"commit": "d"}, r"process 1 \(h1\) runs the code of commit d.* of c\."),
        ({"config": "{1}"}, r"process 1 \(h1\) has another configuration"),
        ({"devices": 3}, r"process 1 \(h1\) sees 3 devices, process 0 \(h0\) 4\."),
    ],
)
def test_an_error_about_a_difference_names_the_host(change, message):
    with pytest.raises(UserError, match=message):
        hosts.check_same([FACTS, FACTS | {"host": "h1"} | change])
    hosts.check_same([FACTS, FACTS | {"host": "h1"}])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_values_of_shared_out_rows_are_in_order(monkeypatch, count, rows):
    def action(part):
        return [10 * x for x in part]

    everyone = [{"values": action(range(rows)[i::count]), "fault": None} for i in range(count)]
    monkeypatch.setattr(hosts.jax, "process_count", lambda: count)
    monkeypatch.setattr(hosts.jax, "process_index", lambda: 0)
    monkeypatch.setattr(hosts, "gather", lambda mine: everyone)
    assert hosts.spread(range(rows), action) == [10 * x for x in range(rows)]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("kind", [UserError, ZeroDivisionError])
def test_what_fails_on_one_process_is_raised_on_all(monkeypatch, index, kind):
    """Process 1 fails: it says so before it ends, and the other does not wait for its values."""
    sent = []

    def action(part):
        if index == 1:
            raise kind("the reward of row 3 is NaN")
        return list(part)

    def gather(mine):
        sent.append(mine["fault"])
        other = {"values": [], "fault": "the reward of row 3 is NaN"}
        return [mine, other] if index == 0 else [{"values": [0], "fault": None}, mine]

    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.jax, "process_index", lambda: index)
    monkeypatch.setattr(hosts, "gather", gather)
    with pytest.raises(kind if index == 1 else UserError, match="row 3"):
        hosts.spread([0, 1], action)
    assert sent == ["the reward of row 3 is NaN" if index == 1 else None]


def test_a_single_process_exchanges_nothing(tmp_path):
    assert hosts.is_first()
    assert hosts.gather({"a": 1}) == [{"a": 1}]
    assert hosts.in_turn(lambda: 3) == 3
    hosts.preflight(tmp_path / "nowhere", "", "", 0.0)
    assert not (tmp_path / "nowhere").exists()
