"""The runner, with small processes in place of runs."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from diffpo_jax.studies import runner
from diffpo_jax.studies.grid import Job

# Jobs: they write the results of a run, or fail.
WRITE = "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); "
DONE = WRITE + (
    "p.mkdir(exist_ok=True); (p / 'report').mkdir(); time.sleep({}); "
    "(p / 'began').write_text(str(time.monotonic())); "
    "(p / 'report/summary.json').write_text('{{}}')"
)
BASE = WRITE + "time.sleep(0.3); p.mkdir(); (p / 'ended').write_text(str(time.monotonic()))"
FAIL = "print('some progress'); print('error: no such file.'); raise SystemExit(2)"


def job(name, code, needs="", kind="run"):
    return Job(name, kind, "task", name, 0, (code,), needs)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(
        runner, "command", lambda job, store: ["-c", *job.flags, str(store / job.id)]
    )
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)


def test_base_models_run_before_the_runs_that_need_them(tmp_path):
    jobs = [
        job("b", BASE, kind="base"),
        job("x", DONE.format(0), "b"),
        job("y", DONE.format(0), "b"),
    ]
    state = runner.run(jobs, tmp_path, 2)
    assert {s.name for s in state.values()} == {"done"}
    ended = float((tmp_path / "b" / "ended").read_text())
    for name in ("x", "y"):
        assert float((tmp_path / name / "began").read_text()) > ended


def test_a_finished_job_is_not_run_again(tmp_path):
    jobs = [job("x", DONE.format(0))]
    runner.run(jobs, tmp_path, 1)
    began = (tmp_path / "x" / "began").read_text()
    runner.run(jobs, tmp_path, 1)
    assert (tmp_path / "x" / "began").read_text() == began


def test_a_failure_is_reported_and_the_other_jobs_finish(tmp_path, capsys):
    jobs = [
        job("b", FAIL, kind="base"),
        job("x", DONE.format(0), "b"),
        job("y", FAIL),
        job("z", DONE.format(0)),
    ]
    seen = []
    state = runner.run(jobs, tmp_path, 1, lambda states: seen.append(dict(states)))
    assert state["y"] == ("failed", "no such file.")
    assert state["x"] == ("failed", "its base model failed: no such file.")
    assert state["z"].name == "done"
    assert "FAILED task y seed 0: no such file." in capsys.readouterr().err
    assert seen[0]["y"].name == "pending"
    assert any(states["y"].name == "running" for states in seen)
    assert seen[-1] == state


def test_a_process_that_succeeds_without_results_has_failed(tmp_path):
    state = runner.run([job("x", "print('nothing')")], tmp_path, 1)
    assert state["x"] == ("failed", "nothing")


def test_the_number_of_processes_is_limited(tmp_path):
    jobs = [job(name, DONE.format(0.2)) for name in "abcd"]
    most = []
    runner.run(
        jobs,
        tmp_path,
        2,
        lambda states: most.append(sum(s.name == "running" for s in states.values())),
    )
    assert max(most) == 2


def test_a_run_whose_lock_is_taken_is_waited_for(tmp_path):
    """As after a study was killed: its process continues and holds the lock."""
    tmp_path.joinpath("x", "report").mkdir(parents=True)
    lock = os.open(tmp_path / "x.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)

    def finish():
        time.sleep(0.5)
        (tmp_path / "x" / "report" / "summary.json").write_text("{}")
        os.close(lock)

    other = threading.Thread(target=finish)
    other.start()
    state = runner.run([job("x", FAIL)], tmp_path, 1)  # would fail if it were started
    other.join()
    assert state["x"].name == "done"


def test_the_process_of_a_run_holds_its_lock_after_the_study_has_ended(tmp_path):
    child = runner._start(job("x", "import time; time.sleep(60)"), tmp_path, set())
    child.close()  # as if the study had ended
    try:
        assert runner._start(job("x", DONE.format(0)), tmp_path, set()) is None
    finally:
        child.process.kill()
        child.process.wait()
    again = runner._start(job("x", DONE.format(0)), tmp_path, set())
    assert again.process.wait() == 0
    again.close()


def test_processes_share_the_cores():
    cores = sorted(os.sched_getaffinity(0))
    assert runner._cores(0, 1) == set()
    assert runner._cores(0, len(cores) + 1) == set()
    if len(cores) > 1:
        shares = [runner._cores(slot, 2) for slot in (0, 1)]
        assert shares[0] | shares[1] == set(cores)
        assert not shares[0] & shares[1]


STUDY = """
import pathlib, sys
from diffpo_jax.system.errors import Stopped
from diffpo_jax.studies import runner
from diffpo_jax.studies.grid import Job
runner.command = lambda job, store: ["-c", *job.flags, sys.argv[2]]
runner.POLL_SECONDS = 0.02
CODE = '''
import signal, sys, time
left = int(sys.argv[1])  # signals until it ends
def stop(*_):
    global left
    left -= 1
    print("saved" if left == 0 else "stopping", flush=True)
    if left == 0: sys.exit(75)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True: time.sleep(60)
'''
try:
    runner.run([Job("x", "run", "task", "x", 0, (CODE,), "")], pathlib.Path(sys.argv[1]), 1)
except Stopped as error:
    print(error)
    sys.exit(75)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("output", [["ready", "saved"], ["ready", "stopping", "saved"]])
def test_each_signal_is_passed_on_to_the_processes_until_they_end(tmp_path, number, output):
    study = subprocess.Popen(
        [sys.executable, "-c", STUDY, str(tmp_path), str(len(output) - 1)],
        stdout=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "x.log"
    try:
        for line in output[:-1]:
            for _ in range(600):
                if log.exists() and line in log.read_text():
                    break
                time.sleep(0.05)
            study.send_signal(number)
        out, _ = study.communicate(timeout=30)
    finally:
        study.kill()
    assert study.returncode == 75
    assert "the same command resumes" in out
    assert log.read_text().splitlines() == output


def test_the_last_line_of_a_log_may_end_in_a_carriage_return(tmp_path):
    assert runner.last_line(tmp_path / "none") == ""
    (tmp_path / "log").write_text("a\nrl 1%\rrl 2%\n\n")
    assert runner.last_line(tmp_path / "log") == "rl 2%"
