import os
import signal
import subprocess
import sys
import threading
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


def ends(pid, within_s=20.0):
    """Whether a process ends within this time.  A zombie has ended."""
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


def test_no_items_start_no_worker():
    pool = workers.Pool("nowhere:at_all", workers=2, limit_s=1.0)
    assert pool.map([]) == []
    pool.close()


def test_outcomes_have_the_order_of_the_items(pool):
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
def test_a_bad_item_does_not_affect_the_others(pool, what, failure):
    items = [("same", 1), (what, "no"), *[("same", i) for i in range(2, 6)]]
    outcomes = pool.map(items)
    assert outcomes[1] == Outcome(None, failure)
    assert [o.value for o in outcomes if not o.failure] == [1, 2, 3, 4, 5]


def test_bad_items_alone_leave_a_working_pool(pool):
    items = [("exit",), ("hang",), ("crash",), ("exit",), ("raise",)]
    failures = [o.failure.partition(":")[0] for o in pool.map(items)]
    assert failures == ["died", "timeout", "died", "died", "error"]
    assert pool.map([("same", 1)]) == [Outcome(1)]


def test_workers_run_in_parallel(pool):
    pids = {o.value for o in pool.map([("sleep", 0.1), ("pid",), ("sleep", 0.1), ("pid",)] * 4)}
    assert len(pids - {None, 0.1}) == 2


def test_a_worker_that_dies_idle_costs_no_item(pool):
    for outcome in pool.map([("pid",)] * 8):
        if not ends(outcome.value, 0.0):
            os.kill(outcome.value, signal.SIGKILL)
        assert ends(outcome.value)
    assert pool.map([("same", i) for i in range(6)]) == [Outcome(i) for i in range(6)]


def test_workers_do_not_import_jax(pool):
    (outcome,) = pool.map([("modules",)])
    assert "hostile" in outcome.value
    assert not {"jax", "jaxlib", "flax", "pytest"} & set(outcome.value)


@pytest.mark.parametrize("function", ["no_such_module:act", "hostile:no_such_function"])
def test_a_function_that_cannot_be_imported_is_named(function):
    pool = workers.Pool(function, workers=1, limit_s=1.0)
    with pytest.raises(RuntimeError, match="no_such"):
        pool.map([()])
    pool.close()


def test_items_survive_workers_that_are_killed_at_random(pool):
    """As the kernel kills them if memory runs out."""
    pids = {o.value for o in pool.map([("sleep", 0.1), ("pid",)] * 4)} - {0.1}
    killer = threading.Timer(0.2, lambda: [os.kill(pid, signal.SIGKILL) for pid in pids])
    killer.start()
    outcomes = pool.map([("sleep", 0.05)] * 20)
    killer.join()
    assert outcomes == [Outcome(0.05)] * 20


PARENT = """
import os, sys, threading
from diffpo_jax.tasks.answers import workers

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
    threading.Timer(0.3, lambda: os.kill(os.getpid(), 9)).start()
    pool.map([("hang",)])
"""


@pytest.mark.parametrize("how", ["exit", "kill", "kill while busy"])
def test_workers_end_with_their_parent(how):
    # The main program needs no `if __name__ == "__main__"`: workers do not import it.
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
    assert all(ends(int(pid)) for pid in pids)
