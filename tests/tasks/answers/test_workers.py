import os
import signal
import subprocess
import sys
import time

import hostile  # noqa: F401  what the workers import
import pytest

from diffpo_jax.tasks.answers import workers
from diffpo_jax.tasks.answers.workers import Outcome


@pytest.fixture(scope="module")
def pool():
    pool = workers.Pool("hostile:act", workers=2, limit_s=1.0)
    yield pool
    pool.close()


def gone(pid, within_s=20.0):
    """Whether a process ends in this time (a zombie has ended)."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_nothing_is_started_for_nothing():
    pool = workers.Pool("nowhere:at_all", workers=2, limit_s=1.0)
    assert pool.map([]) == []
    pool.close()


def test_outcomes_are_in_order(pool):
    assert pool.map([("same", i) for i in range(50)]) == [Outcome(i) for i in range(50)]


@pytest.mark.parametrize(
    ("what", "failure"),
    [
        ("hang", "timeout"),
        ("hang in C", "timeout"),
        ("ignore", "timeout"),
        ("exit", "died"),
        ("crash", "died"),
        ("raise", "error: ValueError('no')"),
        ("memory", "error: MemoryError()"),
    ],
)
def test_one_bad_item_spoils_no_other(pool, what, failure):
    items = [("same", 1), (what, "no"), *[("same", i) for i in range(2, 6)]]
    outcomes = pool.map(items)
    assert outcomes[1] == Outcome(None, failure)
    assert [o.value for o in outcomes if not o.failure] == [1, 2, 3, 4, 5]


def test_bad_items_only(pool):
    items = [("exit",), ("hang",), ("crash",), ("exit",), ("raise",)]
    failures = [o.failure.partition(":")[0] for o in pool.map(items)]
    assert failures == ["died", "timeout", "died", "died", "error"]
    assert pool.map([("same", 1)]) == [Outcome(1)]


def test_workers_work_side_by_side(pool):
    pids = {o.value for o in pool.map([("sleep", 0.1), ("pid",), ("sleep", 0.1), ("pid",)] * 4)}
    assert len(pids - {None, 0.1}) == 2


def test_a_worker_that_died_idle_costs_no_item(pool):
    for outcome in pool.map([("pid",)] * 8):
        if not gone(outcome.value, 0.0):
            os.kill(outcome.value, signal.SIGKILL)
        assert gone(outcome.value)
    assert pool.map([("same", i) for i in range(6)]) == [Outcome(i) for i in range(6)]


def test_workers_do_not_import_jax(pool):
    (outcome,) = pool.map([("modules",)])
    assert "hostile" in outcome.value
    assert not {"jax", "jaxlib", "flax", "pytest"} & set(outcome.value)


@pytest.mark.parametrize("function", ["no_such_module:act", "hostile:no_such_function"])
def test_what_cannot_be_imported_is_said(function):
    pool = workers.Pool(function, workers=1, limit_s=1.0)
    with pytest.raises(RuntimeError, match="no_such"):
        pool.map([()])
    pool.close()


PARENT = """
import os, sys
from diffpo_jax.tasks import workers

if sys.argv[1] == "exit":
    pool = workers.Pool("hostile:act", workers=2, limit_s=60.0)
    print(*{o.value for o in pool.map([("pid",)] * 8)}, flush=True)
elif sys.argv[1] == "kill":
    pool = workers.Pool("hostile:act", workers=1, limit_s=60.0)
    print(pool.map([("pid",)])[0].value, flush=True)
    os.kill(os.getpid(), 9)
else:
    pool = workers.Pool("hostile:act", workers=1, limit_s=1.0)
    print(pool.map([("pid",)])[0].value, flush=True)
    pool._workers[0].give(0, ("hang",))
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["exit", "kill", "kill at work"])
def test_no_worker_is_left_behind(how):
    # No guard around the main program: workers do not import it.
    path = os.pathsep.join(p or os.curdir for p in sys.path)
    result = subprocess.run(
        [sys.executable, "-c", PARENT, how],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    pids = result.stdout.split()
    assert pids, result.stderr
    assert all(gone(int(pid)) for pid in pids)
