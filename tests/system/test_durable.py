"""What is written in this way is whole after a power cut, by the disk of tests/faults."""

import errno
import os
import stat

import numpy as np
import pytest
from faults import calls, disk

from diffpo_jax.system import durable, files


def after_power_cut(tmp_path, write, way):
    """The files of a directory, in which something writes, after a power cut."""
    run, shadow, target = tmp_path / "run", disk.Disk(tmp_path), tmp_path / "after"
    with calls.watch(tmp_path, lambda *call: None, after=shadow.synced):
        durable.make_directory(run)
        write(run)
    shadow.after_power_cut(target, np.random.default_rng(0), run, way)
    return {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}


def write_twice(run):
    for text in ("old", "new"):
        files.write_atomic(run / "a" / "b" / "file", text)


def write_directory(run):
    with files.new_directory(run / "a" / "new") as directory:
        (directory / "b").mkdir()
        (directory / "b" / "file").write_text("new")


def move_and_remove(run):
    write_twice(run)
    durable.rename(run / "a", run / "c")
    files.write_atomic(run / "removed", "x")
    durable.remove(run / "removed")
    durable.remove(run / "removed")


@pytest.mark.parametrize("way", disk.WAYS)
@pytest.mark.parametrize(
    ("write", "left"),
    [
        (write_twice, {"a/b/file": b"new"}),
        (write_directory, {"a/new/b/file": b"new"}),
        (move_and_remove, {"c/b/file": b"new"}),
    ],
)
def test_all_is_whole_after_a_power_cut(tmp_path, way, write, left):
    assert after_power_cut(tmp_path, write, way) == left


def test_what_is_not_synced_is_lost(tmp_path):
    assert after_power_cut(tmp_path, lambda run: (run / "file").write_text("x"), "least") == {}


def failing(code):
    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    return fail


def test_places_that_cannot_be_synced_need_not_be(tmp_path, monkeypatch):
    """Buckets that are mounted as directories, and devices."""
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    durable.sync(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error") as caught:
        durable.sync(tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_a_directory_that_cannot_be_read_can_be_written_to(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EACCES, "no", tmp_path)

    monkeypatch.setattr(os, "open", refuse)
    durable.sync(tmp_path)
    assert stat.S_ISDIR(tmp_path.stat().st_mode)
