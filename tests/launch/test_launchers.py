"""The launchers, run against stand-ins that record their calls.

The tests show which commands the launchers run, and when; not that a cloud accepts them.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fakes import ROOT, machine, words_after

CLOUD = {"PROJECT": "p", "ZONE": "z", "WORKDIR": "gs://bucket/runs/one"}
GKE = CLOUD | {"CLUSTER": "c"}
SLURM = {"WORKDIR": "/shared/runs/one"}
SETTINGS = {"tpu_pod.sh": CLOUD, "gke_xpk.sh": GKE, "slurm_gpu.sh": SLURM}
STEPS = {
    "create": "queued-resources create",
    "state": "queued-resources describe",
    "send": "tpu-vm scp",
    "install": "uv pip install",
    "start": "diffpo_jax.main",
    "log": "tail -n",
    "ended": "exit=running",
    "delete": "queued-resources delete",
}
UP = ["create", "state", "send", "install"]
DONE = {"exit=running": [("exit=0", 0)], "describe": [("ACTIVE", 0)]}


@pytest.fixture
def path(tmp_path):
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


def steps(pod):
    return pod.order(**STEPS)


@pytest.mark.parametrize("script", SETTINGS)
def test_help_lists_every_command_and_runs_none(path, script):
    pod = machine(path, {})
    out = pod.run(script, "--help")
    assert out.returncode == 0
    assert f"launch/{script} [--dry-run] COMMAND" in out.stdout
    assert "WORKDIR" in out.stdout
    assert "set -euo" not in out.stdout
    assert not pod.calls
    # The commands that the help lists are exactly those that exist.
    named = set(re.findall(r"^  ([a-z]+) {2,}", out.stdout, re.MULTILINE))
    known = {"run", "up", "start", "follow", "stop", "down", "state"}
    for command in known:
        out = machine(path, DONE, **SETTINGS[script]).run(script, "--dry-run", command)
        assert (out.returncode == 0) == (command in named), out.stderr


@pytest.mark.parametrize("script", SETTINGS)
def test_dry_run_prints_the_commands_and_runs_none(path, script):
    pod = machine(path, {}, **SETTINGS[script])
    out = pod.run(script, "--dry-run", "run", "--", "--config.seed=1")
    assert out.returncode == 0, out.stderr
    assert "diffpo_jax.main" in out.stdout
    assert "config.seed=1" in out.stdout
    assert not pod.calls
    assert {p.name for p in path.iterdir()} == {"answers.json", "gcloud", "xpk"} | {
        "scontrol",
        "sbatch",
        "srun",
        "squeue",
        "sacct",
        "scancel",
    }


@pytest.mark.parametrize(
    ("script", "words", "change", "sentence"),
    [
        ("tpu_pod.sh", ["run"], {"PROJECT": ""}, "PROJECT is not set"),
        ("tpu_pod.sh", ["run"], {"WORKDIR": "/local"}, "is not a gs:// path"),
        ("tpu_pod.sh", ["run"], {"WORKDIR": "gs://bucket"}, "has no directory"),
        *(
            (script, ["run"], {"WORKDIR": "gs://$(id)';b/one"}, "a bucket's name has")
            for script in ("tpu_pod.sh", "gke_xpk.sh", "slurm_gpu.sh")
        ),
        ("tpu_pod.sh", ["fly"], {}, "unknown command fly"),
        ("tpu_pod.sh", ["run", "--config.seed=1"], {}, "come after --"),
        ("tpu_pod.sh", ["up", "down"], {}, "give one command"),
        ("tpu_pod.sh", [], {}, "no command given"),
        ("gke_xpk.sh", ["run"], {"CLUSTER": ""}, "CLUSTER is not set"),
        ("gke_xpk.sh", ["run"], {"WORKDIR": "/local"}, "is not a gs:// path"),
        ("slurm_gpu.sh", ["run"], {"WORKDIR": "runs/one"}, "is neither an absolute path"),
        ("gke_xpk.sh", ["run", "--", "--overwrite"], {}, "--overwrite would remove the run again"),
    ],
)
def test_a_user_mistake_is_one_message_and_runs_nothing(path, script, words, change, sentence):
    pod = machine(path, {}, **(SETTINGS[script] | change))
    out = pod.run(script, *words)
    assert out.returncode == 2
    assert out.stderr.startswith(f"{script}: error: ")
    assert sentence in out.stderr
    assert not pod.calls


def test_run_creates_a_slice_runs_on_it_and_deletes_it(path):
    waiting = [("WAITING_FOR_RESOURCES", 0), ("PROVISIONING", 0), ("ACTIVE", 0)]
    pod = machine(path, DONE | {"describe": waiting}, **CLOUD)
    out = pod.run("tpu_pod.sh", "run", "--", "--config.task.prompt.template=a b")
    assert out.returncode == 0, out.stderr
    assert steps(pod) == ["create", *["state"] * 3, *UP[2:], "start", "log", "ended", "delete"]
    create, start = pod.calls[0], next(c for c in pod.calls if "diffpo_jax.main" in " ".join(c))
    assert {"--spot", "--node-id=diffpo", "--accelerator-type=v5litepod-16"} <= set(create)
    assert "--worker=all" in start
    inner = words_after(start, "--command")
    run = next(word for word in inner if "diffpo_jax.main" in word)
    for flag in ("--workdir=../bucket/runs/one", "--config=configs/sudoku.py", r"a\ b"):
        assert flag in run
    assert all("--project=p" in c and "--zone=z" in c for c in pod.calls)
    assert not list(path.glob("tmp.*"))  # the bundle that was sent is removed


def test_only_the_first_start_on_a_slice_overwrites(path):
    answers = {
        "exit=running": [("", 255), ("exit=0", 0)],
        "describe": [("ACTIVE", 0), ("SUSPENDED", 0), ("ACTIVE", 0)],
    }
    pod = machine(path, answers, **CLOUD)
    assert pod.run("tpu_pod.sh", "run", "--", "--overwrite=true").returncode == 0
    starts = [" ".join(c) for c in pod.calls if "diffpo_jax.main" in " ".join(c)]
    assert ["--overwrite" in start for start in starts] == [True, False]


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED", "SUSPENDING"])
def test_a_preempted_slice_is_replaced_and_the_same_run_starts_again(path, state):
    answers = {
        "exit=running": [("", 255), ("exit=0", 0)],  # worker 0 is taken away; the next one finishes
        "describe": [("ACTIVE", 0), (state, 0), ("ACTIVE", 0)],
    }
    pod = machine(path, answers, **CLOUD)
    out = pod.run("tpu_pod.sh", "run", "--", "--config.seed=1")
    assert out.returncode == 0, out.stderr
    once = [*UP, "start", "log", "ended"]
    assert steps(pod) == [*once, "state", "delete", *once, "delete"]
    first, second = (c for c in pod.calls if "diffpo_jax.main" in " ".join(c))
    assert first == second
    assert "requesting another (restart 1 of 20)" in out.stderr


def test_a_run_that_got_sigterm_restarts_on_its_slice_if_it_still_exists(path):
    answers = DONE | {"exit=running": [("exit=75", 0)] * 4 + [("exit=0", 0)]}
    pod = machine(path, answers, **CLOUD)
    out = pod.run("tpu_pod.sh", "run")
    assert out.returncode == 0, out.stderr
    assert "starting it again (restart 1 of 20)" in out.stderr
    order = steps(pod)
    assert [order.count(x) for x in ("create", "install", "start", "delete")] == [1, 2, 2, 1]
    assert order[-1] == "delete"


def test_a_run_that_got_sigterm_gets_another_slice_if_its_own_is_suspended(path):
    answers = {
        "exit=running": [("exit=75", 0), ("exit=0", 0)],
        "describe": [("ACTIVE", 0), ("SUSPENDING", 0), ("ACTIVE", 0)],
    }
    pod = machine(path, answers, **CLOUD)
    assert pod.run("tpu_pod.sh", "run").returncode == 0
    assert steps(pod).count("create") == steps(pod).count("start") == 2


def test_a_run_ended_by_the_stop_command_is_not_started_again(path):
    pod = machine(path, DONE | {"exit=running": [("exit=stopped", 0)]}, **CLOUD)
    out = pod.run("tpu_pod.sh", "run")
    assert out.returncode == 143
    assert [steps(pod).count(x) for x in ("start", "delete")] == [1, 1]


RUN_THAT_STOPS = """#!/usr/bin/env python3
import pathlib, signal, sys, time
signals = []
signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
pathlib.Path("up").touch()
while not signals:
    time.sleep(0.01)
time.sleep(0.5)
sys.exit(75)
"""


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("by_stop", [True, False])
def test_commands_on_a_worker_report_how_the_run_ended(path, tmp_path, by_stop, stops):
    """Runs the commands themselves, in a directory that stands for a worker's home."""
    pod = machine(path, {}, **CLOUD)
    for command in ("start", "stop", "follow"):
        pod.run("tpu_pod.sh", command)  # without a running run, `follow` gives up
    start, stop, ended = (
        next(x for c in pod.calls for x in c if x.startswith("--command=") and word in x)
        for word in ("nohup", "kill -TERM", "exit=running")
    )
    home = tmp_path / "home"
    python = home / "diffpo_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (home / "bucket").mkdir()
    python.write_text(RUN_THAT_STOPS if stops else RUN_THAT_STOPS.replace("signal.signal(", "("))
    python.chmod(0o755)

    def on_worker(command):
        command = command.removeprefix("--command=")
        out = subprocess.run(
            ["bash", "-c", command], cwd=home, capture_output=True, text=True, timeout=30
        )
        return out.stdout.strip()

    def wait_for(answer):
        end = time.monotonic() + 20
        while (outcome := on_worker(ended)) != answer:
            assert outcome == "exit=running"
            assert time.monotonic() < end
            time.sleep(0.05)

    on_worker(start)
    end = time.monotonic() + 20
    while not (home / "diffpo_jax" / "up").exists():
        assert time.monotonic() < end, (home / "diffpo.log").read_text()
        time.sleep(0.05)
    if by_stop:
        on_worker(stop)
    else:  # a machine that shuts down sends SIGTERM to every process
        group = int((home / "diffpo.pid").read_text())
        os.killpg(group, signal.SIGTERM)
    if stops:
        assert on_worker(ended) == "exit=running"  # until its step is saved
    wait_for("exit=stopped" if by_stop else "exit=75")


def test_a_slice_that_is_taken_away_during_installation_is_replaced(path):
    answers = DONE | {
        "scp": [("", 1), ("", 0)],
        "describe": [("ACTIVE", 0), ("SUSPENDED", 0), ("ACTIVE", 0)],
    }
    pod = machine(path, answers, **CLOUD)
    assert pod.run("tpu_pod.sh", "run").returncode == 0
    assert steps(pod)[:6] == ["create", "state", "send", "state", "delete", "create"]


def test_restarts_are_counted_and_the_last_slice_is_deleted(path):
    answers = {"describe": [("ACTIVE", 0), ("SUSPENDED", 0)], "exit=running": [("", 255)]}
    pod = machine(path, answers, **CLOUD, RESTARTS="2")
    out = pod.run("tpu_pod.sh", "run")
    assert out.returncode == 1
    assert "RESTARTS=2 are used" in out.stderr
    assert steps(pod).count("create") == steps(pod).count("delete") == 3


def test_a_lost_connection_is_opened_again(path):
    many = [("exit=running", 0)] * 6
    pod = machine(path, DONE | {"exit=running": [*many, ("exit=0", 0)]}, **CLOUD)
    assert pod.run("tpu_pod.sh", "run").returncode == 0
    assert steps(pod).count("start") == 1
    assert steps(pod).count("log") == 7


@pytest.mark.parametrize(("status", "polls"), [(2, 1), (1, 4), (134, 4)])
def test_a_failed_run_returns_its_status_and_deletes_the_slice(path, status, polls):
    pod = machine(path, DONE | {"exit=running": [(f"exit={status}", 0)]}, **CLOUD)
    out = pod.run("tpu_pod.sh", "run")
    assert out.returncode == status
    assert f"the run ended with status {status}" in out.stderr
    assert steps(pod).count("ended") == polls
    assert steps(pod)[-1] == "delete"
    assert steps(pod).count("create") == 1


@pytest.mark.parametrize("broken", ["scp", "uv pip install", "diffpo_jax.main"])
def test_a_failed_step_deletes_the_slice(path, broken):
    pod = machine(path, {broken: [("", 3)]} | DONE, **CLOUD)
    out = pod.run("tpu_pod.sh", "run")
    assert out.returncode != 0
    assert "error: the run ended with status" in out.stderr
    assert steps(pod)[-1] == "delete"


def test_a_refused_request_is_an_error_and_nothing_is_deleted(path):
    pod = machine(path, {"create": [("", 1)]}, **CLOUD)
    out = pod.run("tpu_pod.sh", "run")
    assert out.returncode == 1
    assert "was refused" in out.stderr
    assert steps(pod) == ["create"]


def test_a_request_that_is_never_granted_is_withdrawn(path):
    pod = machine(path, {"describe": [("WAITING_FOR_RESOURCES", 0)]}, **CLOUD, WAIT="0")
    out = pod.run("tpu_pod.sh", "run")
    assert out.returncode == 1
    assert "no slice within WAIT=0 seconds" in out.stderr
    assert steps(pod) == ["create", "state", "delete"]


def test_the_user_is_warned_that_an_undeleted_slice_is_billed(path):
    pod = machine(path, DONE | {"delete": [("", 1)]}, **CLOUD)
    out = pod.run("tpu_pod.sh", "run")
    assert out.returncode == 1
    assert "could not be deleted and is billed" in out.stderr


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_slice(path, sent, status):
    pod = machine(path, DONE | {"tail -n": [("hang", 0)]}, **CLOUD)
    process = pod.start("tpu_pod.sh", "run")
    pod.wait_for("tail -n")
    process.send_signal(sent)
    process.communicate(timeout=30)
    assert process.returncode == status
    assert steps(pod)[-1] == "delete"


def test_gke_submits_waits_and_keeps_a_workload_that_succeeded(path):
    pod = machine(path, {}, **GKE)
    out = pod.run("gke_xpk.sh", "run", "--", "--config.seed=1")
    assert out.returncode == 0, out.stderr
    assert [c[:3] for c in pod.calls] == [["xpk", "workload", x] for x in ("create", "list")]
    create = pod.calls[0]
    assert {"--max-restarts=20", "--storage=bucket", "--cluster=c"} <= set(create)
    assert "--restart-on-exit-codes=75" in create
    command = words_after(create, "--command")
    assert {"--workdir=/bucket/runs/one", "--config.seed=1", ".[tpu]"} <= set(command)
    assert not list(path.glob("tmp.*"))  # the clone that was put into the image is removed


def test_gke_requests_the_number_of_slices_in_SLICES(path):
    pod = machine(path, {}, **(GKE | {"SLICES": "2"}))
    for command in ("up", "start"):
        assert pod.run("gke_xpk.sh", command).returncode == 0
    asked = [call for call in pod.calls if "create" in call]
    assert [call[1] for call in asked] == ["cluster", "workload"]
    assert all("--num-slices=2" in call for call in asked)


def test_gke_deletes_a_workload_that_failed(path):
    pod = machine(path, {"workload list": [("", 125)]}, **GKE)
    out = pod.run("gke_xpk.sh", "run")
    assert out.returncode == 125
    assert "the workload diffpo failed" in out.stderr
    assert pod.order(create="workload create", delete="workload delete") == ["create", "delete"]


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("during", ["workload create", "workload list"])
def test_an_interrupted_gke_run_leaves_no_workload(path, sent, status, during):
    # A workload that is being created exists before the script can end.
    wait = {"workload create": ("wait", 0), "workload list": ("hang", 0)}[during]
    pod = machine(path, {during: [wait]}, **GKE)
    process = pod.start("gke_xpk.sh", "run")
    pod.wait_for(during)
    process.send_signal(sent)
    process.communicate(timeout=30)
    assert process.returncode == status
    assert pod.calls[-1][:3] == ["xpk", "workload", "delete"]


def test_gke_deletes_nothing_that_it_did_not_create(path):
    pod = machine(path, {}, **GKE, TMPDIR="/dev/null")  # no clone can be made there
    assert pod.run("gke_xpk.sh", "run").returncode == 1
    assert not pod.calls


def test_a_refused_gke_workload_is_an_error(path):
    pod = machine(path, {"workload create": [("", 1)]}, **GKE)
    out = pod.run("gke_xpk.sh", "run")
    assert out.returncode == 1
    assert "could not be submitted" in out.stderr
    assert len(pod.calls) == 1


def test_gke_deletes_a_cluster_whose_bucket_cannot_be_attached(path):
    pod = machine(path, {"storage attach": [("", 1)]}, **GKE)
    out = pod.run("gke_xpk.sh", "up")
    assert out.returncode == 1
    assert [c[1:3] for c in pod.calls] == [
        ["cluster", "create"],
        ["storage", "attach"],
        ["cluster", "delete"],
    ]


QUEUE = {
    "squeue": [("5 RUNNING\n17 PENDING", 0), ("17 RUNNING", 0), ("5 RUNNING", 0)],
    "sbatch": [("17;cluster", 0)],
}


def test_slurm_submits_and_follows_to_the_end(path):
    answers = QUEUE | {"sacct": [("  COMPLETED  ", 0)]}
    pod = machine(path, answers, **SLURM, NODES="2", GPUS="4", LOG=str(path / "log"))
    (path / "log").write_text("a line\n")
    out = pod.run("slurm_gpu.sh", "run", "--", "--config.task.prompt.template=a b")
    assert out.returncode == 0, out.stderr
    assert out.stdout == "a line\n"
    assert [c[0] for c in pod.calls] == ["sbatch", *["squeue"] * 3, "sacct"]
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"} <= set(pod.calls[0])
    assert {"--requeue", "--signal=TERM@600"} <= set(pod.calls[0])
    assert any(word.startswith("--user=") for word in pod.calls[1])
    script = pod.calls[0][-1]
    assert "--workdir=/shared/runs/one" in script
    assert r"--config.task.prompt.template=a\ b" in script


def run_job(pod, job, starts=""):
    """Runs the script of a submitted Slurm job here; returns its outcome and its mount.

    srun runs its command, Python prints its arguments, and gcsfuse prints its own.

    Args:
      starts: how often Slurm has restarted the job; empty if it does not say.
    """
    for name, text in {
        "srun": 'shift\nexec "$@"',
        "python": 'printf "%s\\n" "$@"',
        "gcsfuse": 'echo "gcsfuse $*" >&2',
    }.items():
        (pod.bin / name).unlink(missing_ok=True)
        (pod.bin / name).write_text(f"#!/bin/bash\n{text}\n")
        (pod.bin / name).chmod(0o755)
    out = subprocess.run(
        ["bash", "-c", pod.calls[0][-1]],
        env=pod.environment
        | {"SLURM_JOB_ID": job}
        | ({"SLURM_RESTART_COUNT": starts} if starts else {}),
        capture_output=True,
        text=True,
        timeout=30,
    )
    mount = f"/tmp/diffpo-{job}-{starts or 0}"
    shutil.rmtree(mount, ignore_errors=True)
    Path(f"{mount}.lock").unlink(missing_ok=True)
    return out, mount


@pytest.mark.parametrize(
    ("workdir", "expected"),
    [
        ("/shared/a b", "/shared/a b"),
        ("gs://bucket/one", "MOUNT/one"),
        ("gs://bucket/$(echo run)/a b;'id`id`", "MOUNT/$(echo run)/a b;'id`id`"),
    ],
)
def test_the_slurm_job_script_runs(path, workdir, expected):
    """Runs the script itself, with an srun that runs its command here and a gcsfuse that prints."""
    pod = machine(path, {"sbatch": [("1", 0)]}, WORKDIR=workdir, PYTHON=str(path / "python"))
    assert pod.run("slurm_gpu.sh", "start", "--", "--config.seed=1").returncode == 0
    out, mount = run_job(pod, f"{path.parent.name}-test")
    assert out.returncode == 0, out.stderr
    words = out.stdout.splitlines()
    assert words[:2] == ["-m", "diffpo_jax.main"]
    assert f"--workdir={expected.replace('MOUNT', mount)}" in words
    assert ("gcsfuse" in out.stderr) == workdir.startswith("gs://")


@pytest.mark.parametrize(
    ("status", "state", "starts", "again"),
    [
        (75, "RUNNING", 3, True),
        (143, "RUNNING", 3, True),  # SIGTERM during an evaluation
        (75, "COMPLETING", 3, False),  # Slurm itself is ending it
        (75, "RUNNING", 20, False),
        (1, "RUNNING", 3, False),
        (0, "RUNNING", 3, False),
    ],
)
def test_a_slurm_job_that_got_sigterm_requeues_itself(path, status, state, starts, again):
    pod = machine(path, {"sbatch": [("1", 0)], "squeue": [(state, 0)]}, **SLURM)
    assert pod.run("slurm_gpu.sh", "start").returncode == 0
    script = pod.calls[0][-1]
    (path / "srun").write_text(f"#!/bin/bash\nexit {status}\n")
    job = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(starts)}
    out = subprocess.run(["bash", "-c", script], env=pod.environment | job, timeout=30)
    assert out.returncode == status
    assert (["scontrol", "requeue", "17"] in pod.calls) == again


@pytest.mark.parametrize("workdir", ["/shared/one", "gs://bucket/one"])
@pytest.mark.parametrize(("starts", "overwrites"), [("", True), ("0", True), ("1", False)])
def test_only_the_first_start_of_a_slurm_job_overwrites(path, workdir, starts, overwrites):
    pod = machine(path, {"sbatch": [("1", 0)]}, WORKDIR=workdir, PYTHON=str(path / "python"))
    flags = "--config.seed=1", "--overwrite", "--verbose"
    assert pod.run("slurm_gpu.sh", "start", "--", *flags).returncode == 0
    out, _ = run_job(pod, f"{path.parent.name}-o", starts)
    assert out.returncode == 0, out.stderr
    words = out.stdout.splitlines()
    assert ("--overwrite" in words) == overwrites
    assert {"--config.seed=1", "--verbose"} <= set(words)
    assert "" not in words


@pytest.mark.parametrize("last", ["FAILED", "CANCELLED by 7", "TIMEOUT", "NODE_FAIL"])
def test_slurm_reports_how_a_job_ended(path, last):
    pod = machine(path, QUEUE | {"sacct": [(last, 0)]}, **SLURM)
    out = pod.run("slurm_gpu.sh", "run")
    assert out.returncode == 1
    assert f"job 17 ended as {last};" in out.stderr


def test_slurm_waits_for_accounting_that_lags_behind(path):
    behind = [("", 1), ("", 0), ("RUNNING", 0), ("COMPLETING", 0), ("PENDING", 0)]
    pod = machine(path, QUEUE | {"sacct": [*behind, ("COMPLETED", 0)]}, **SLURM)
    assert pod.run("slurm_gpu.sh", "run").returncode == 0
    assert pod.order(sacct="^sacct").count("sacct") == 6


def test_slurm_follows_a_job_that_is_queued_again(path):
    queue = [("17 RUNNING", 0), ("", 0), ("17 PENDING", 0), ("17 RUNNING", 0), ("", 0)]
    answers = {"squeue": queue, "sacct": [("REQUEUED", 0), ("COMPLETED", 0)]}
    pod = machine(path, QUEUE | answers, **SLURM)
    assert pod.run("slurm_gpu.sh", "run").returncode == 0
    assert pod.order(squeue="^squeue").count("squeue") == 5


@pytest.mark.parametrize(
    ("accounting", "sentence"),
    [
        (("", 1), "does not show how it ended: it shows nothing"),
        (("RUNNING", 0), "it shows RUNNING"),
    ],
)
def test_slurm_does_not_wait_forever_for_accounting(path, accounting, sentence):
    pod = machine(path, QUEUE | {"sacct": [accounting]}, **SLURM)
    out = pod.run("slurm_gpu.sh", "run")
    assert out.returncode == 1
    assert sentence in out.stderr
    assert pod.order(sacct="^sacct").count("sacct") == 20


def test_slurm_keeps_following_if_squeue_fails(path):
    queue = [("17 RUNNING", 0), ("", 1), ("17 RUNNING", 0), ("", 0)]
    pod = machine(path, QUEUE | {"squeue": queue, "sacct": [("COMPLETED", 0)]}, **SLURM)
    assert pod.run("slurm_gpu.sh", "run").returncode == 0
    assert pod.order(squeue="^squeue").count("squeue") == 4


def test_an_interrupted_slurm_run_cancels_its_job(path):
    pod = machine(path, QUEUE | {"squeue": [("17 RUNNING", 0)]}, **(SLURM | {"POLL": "60"}))
    process = pod.start("slurm_gpu.sh", "run")
    pod.wait_for("^squeue")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert pod.calls[-1] == ["scancel", "17"]


def test_slurm_only_stops_the_job_with_its_name(path):
    pod = machine(path, {"squeue": [("17\n18", 0), ("19", 0)]}, NAME="mine")
    out = pod.run("slurm_gpu.sh", "stop")
    assert out.returncode == 2
    assert "several jobs are named mine (17, 18)" in out.stderr
    assert pod.run("slurm_gpu.sh", "stop").returncode == 0
    assert pod.calls[-1] == ["scancel", "19"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_pass_shellcheck():
    scripts = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "launch").glob("*.sh"))
    out = subprocess.run(["shellcheck", "-x", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout
