import errno
import json
import os
import stat

import pytest

from diffpo_jax.system import files


def test_text_and_bytes_are_written_and_directories_created(tmp_path):
    path = tmp_path / "a" / "b" / "text"
    files.write_atomic(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    files.write_atomic(str(path), b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"
    assert os.listdir(path.parent) == ["text"]


def test_a_bare_name_is_written_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_atomic("name", "x")
    assert (tmp_path / "name").read_text() == "x"


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_atomic(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize(("mask", "folder", "file"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640)])
def test_a_new_directory_has_the_permissions_of_the_umask(tmp_path, mask, folder, file):
    before = os.umask(mask)
    try:
        with files.new_directory(tmp_path / "new") as directory:
            (directory / "part").mkdir(0o700)
            for path in (directory / "a", directory / "part" / "b"):
                path.touch(0o600)
            (directory / "usual").write_text("x")
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
    }
    assert modes == {
        "new": folder,
        "new/a": file,
        "new/usual": file,
        "new/part": folder,
        "new/part/b": file,
    }


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_only_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    path.write_text("old")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_atomic(path, "new")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_content_is_synced_before_the_rename(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    seen = []
    fsync = os.fsync

    def spy(descriptor):
        (temporary,) = [n for n in os.listdir(tmp_path) if n != "file"] or [None]
        seen.append((path.read_text(), temporary and (tmp_path / temporary).read_text()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    files.write_atomic(path, "new")
    # First the content under another name is synced; after the rename, the directory.
    assert seen == [("old", "new"), ("new", None)]


def test_json_is_indented_and_ends_in_a_newline(tmp_path):
    files.write_json(tmp_path / "a.json", {"é": 0.1, "none": None})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "é": 0.1,\n  "none": null\n}\n'


def test_jsonl_holds_one_row_per_line(tmp_path):
    rows = [{"text": "two\nlines"}, {"x": [1, 2]}]
    files.write_jsonl(tmp_path / "a.jsonl", rows)
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    files.write_jsonl(tmp_path / "a.jsonl", [])
    assert (tmp_path / "a.jsonl").read_bytes() == b""


@pytest.mark.parametrize("write", [files.write_json, lambda p, v: files.write_jsonl(p, [v])])
def test_numbers_that_json_lacks_are_refused_and_the_old_file_stays(tmp_path, write):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError):
        write(path, {"x": float("nan")})
    assert path.read_text() == "old"
