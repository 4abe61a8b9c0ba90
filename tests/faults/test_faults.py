"""A few of the faults of `python -m tests.faults`, and that its disk forgets what is not synced."""

import os

import numpy as np
import pytest
from faults import calls, disk, results, tries, warm


@pytest.mark.slow
def test_a_run_goes_on_after_faults(tmp_path):
    with warm.programs():
        faults = tries.Faults(tmp_path, seed=0)
        made = [
            *faults.kills(2),
            *faults.power_cuts(3),
            *faults.errors(4),
            *faults.damage(3),
            *faults.damage(2, finished=True),
        ]
    assert len(made) == 14
    worst = [f"{one.what}: {one.ended}\n{one.why}" for one in made if one.ended in results.WORST]
    assert not worst, "\n\n".join(worst)


def test_calls_are_seen_in_order_and_can_fail(tmp_path):
    seen = []

    def act(number, kind, path):
        seen.append((number, kind, os.path.relpath(path, tmp_path)))
        if kind == "rename":
            raise OSError(28, "full", path)

    with calls.watch(tmp_path, act, changing=True) as watcher:
        (tmp_path / "a").write_text("x")
        (tmp_path / "a").read_text()
        with pytest.raises(OSError, match="full"):
            (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path.parent / "elsewhere").mkdir()
    (tmp_path / "c").write_text("not seen any more")
    assert seen == [(0, "open to write", "a"), (1, "rename", "a")]
    assert watcher.count == 2
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]


@pytest.mark.parametrize(
    ("way", "left"), [("least", {"kept": b"old"}), ("names", {"kept": b"old", "lost": b""})]
)
def test_a_power_cut_leaves_what_was_synced(tmp_path, way, left):
    run, shadow = tmp_path / "run", disk.Disk(tmp_path)
    with calls.watch(tmp_path, lambda *call: None, after=shadow.synced):
        run.mkdir()
        (run / "kept").write_bytes(b"old")
        for path in (run / "kept", run, tmp_path):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        (run / "kept").write_bytes(b"new")
        (run / "lost").write_bytes(b"new")
    target = tmp_path / "after"
    shadow.after_power_cut(target, np.random.default_rng(0), run, way)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == left
