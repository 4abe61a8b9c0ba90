import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import metrics


def lines_of(path):
    return path.read_bytes().split(b"\n")[:-1]


def test_means_are_sums_divided_by_counts():
    pairs = {"loss": (6.0, 4), "none": (0.0, 0), "jax": (jnp.float32(3), jnp.int32(2))}
    assert metrics.means(pairs) == {"loss": 1.5, "jax": 1.5}


def test_means_are_computed_in_float64():
    # In float32, 1 / 3 would come back as 0.3333333432674408.
    assert metrics.means({"x": (np.float32(1), np.float32(3))}) == {"x": 1 / 3}


def test_means_take_bfloat16():
    assert metrics.means({"x": (jnp.bfloat16(1.5), 3)}) == {"x": 0.5}


def test_a_line_has_stage_step_sorted_values_and_prefixed_times(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with metrics.MetricsWriter(path) as writer:
        writer.write("rl", 3, {"loss": 0.1, "accuracy": jnp.float32(0.5)}, {"step": 2})
        writer.write("rl", np.int64(4), {}, {})
    assert path.read_bytes() == (
        b'{"stage": "rl", "step": 3, "accuracy": 0.5, "loss": 0.1, "time/step": 2.0}\n'
        b'{"stage": "rl", "step": 4}\n'
    )


@pytest.mark.parametrize("pair", [(1, 1.0), (0.0, -0.0), (np.float32(0.1), jnp.float32(0.1))])
def test_equal_numbers_give_equal_text(tmp_path, pair):
    for name, value in zip("ab", pair):
        with metrics.MetricsWriter(tmp_path / name) as writer:
            writer.write("rl", 1, {"x": value}, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_read_back_exactly(value):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "metrics.jsonl"
        with metrics.MetricsWriter(path) as writer:
            writer.write("rl", 1, {"x": value}, {})
        assert metrics.read(path) == [{"stage": "rl", "step": 1, "x": value}]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), jnp.float32("-inf")])
@pytest.mark.parametrize("as_time", [False, True])
def test_numbers_that_are_not_finite_are_refused(tmp_path, bad, as_time):
    path = tmp_path / "metrics.jsonl"
    writer = metrics.MetricsWriter(path)
    with pytest.raises(UserError, match=r"stage 'rl', step 7: .*loss is .*diverged"):
        writer.write("rl", 7, *(({}, {"loss": bad}) if as_time else ({"loss": bad}, {})))
    writer.close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("name", ["stage", "step", "time/step"])
def test_reserved_names_are_refused(tmp_path, name):
    writer = metrics.MetricsWriter(tmp_path / "m")
    with pytest.raises(ValueError, match="reserved"):
        writer.write("rl", 1, {name: 1.0}, {})
    writer.close()


def test_each_line_is_one_append(tmp_path, monkeypatch):
    with metrics.MetricsWriter(tmp_path / "m") as writer:
        calls = []
        write = os.write
        monkeypatch.setattr(os, "write", lambda f, data: calls.append(data) or write(f, data))
        writer.write("rl", 1, {"x": 1.0}, {})
        writer.write("rl", 2, {"x": 1.0}, {})
    assert [c.count(b"\n") for c in calls] == [1, 1]
    assert b"".join(calls) == (tmp_path / "m").read_bytes()


def test_a_line_is_synced_and_the_file_closed_before_the_next(tmp_path, monkeypatch):
    path, synced = tmp_path / "m", []
    sync = os.fsync
    with metrics.MetricsWriter(path) as writer:
        monkeypatch.setattr(os, "fsync", lambda f: (synced.append(os.fstat(f).st_size), sync(f)))
        for step in (1, 2):
            writer.write("rl", step, {"x": 1.0}, {})
            opened = [os.path.realpath(f"/proc/self/fd/{f}") for f in os.listdir("/proc/self/fd")]
            assert str(path) not in opened
            assert synced[-1] == path.stat().st_size  # after the line was written
    assert len(synced) == 2


def test_lines_may_go_to_dev_null():
    with metrics.MetricsWriter(os.devnull) as writer:  # as in every process but the first
        writer.write("rl", 1, {"x": 1.0}, {})


def test_a_line_that_cannot_be_synced_is_removed(tmp_path, monkeypatch):
    path = tmp_path / "m"
    with metrics.MetricsWriter(path) as writer:
        writer.write("rl", 1, {"x": 1.0}, {})
        whole = path.read_bytes()

        def full(descriptor):  # a network file system may report a full disk only here
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="quota"):
                writer.write("rl", 2, {"x": 1.0}, {})
        assert path.read_bytes() == whole
        writer.write("rl", 2, {"x": 1.0}, {})
    assert [row["step"] for row in metrics.read(path)] == [1, 2]


def test_a_short_write_raises_and_is_removed(tmp_path, monkeypatch):
    path = tmp_path / "m"
    with metrics.MetricsWriter(path) as writer:
        writer.write("rl", 1, {"x": 1.0}, {})
        whole = path.read_bytes()
        write = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda f, data: write(f, data[:5]))
            with pytest.raises(OSError, match="only 5 of"):
                writer.write("rl", 2, {"x": 1.0}, {})
        assert path.read_bytes() == whole
        writer.write("rl", 2, {"x": 1.0}, {})
    assert [row["step"] for row in metrics.read(path)] == [1, 2]


@pytest.mark.parametrize("torn", [b'{"stage": "rl", "step": 2}', b'{"stage": "rl", "st', b'{"a\n'])
def test_a_torn_last_line_is_ignored_and_removed_before_the_next(tmp_path, torn):
    path = tmp_path / "m"
    whole = b'{"stage": "rl", "step": 1}\n'
    path.write_bytes(whole + torn)
    assert metrics.read(path) == [{"stage": "rl", "step": 1}]
    metrics.cut_back(path, lambda row: True)
    assert path.read_bytes() == whole
    path.write_bytes(whole + torn)
    with metrics.MetricsWriter(path) as writer:
        writer.write("rl", 2, {}, {})
    assert path.read_bytes() == whole + b'{"stage": "rl", "step": 2}\n'


def test_damage_before_the_last_line_is_named(tmp_path):
    path = tmp_path / "m"
    content = b'{"stage": "rl", "step": 1}\n{"st\n{"stage": "rl", "step": 3}\n'
    path.write_bytes(content)
    with pytest.raises(UserError, match="line 2"):
        metrics.read(path)
    with pytest.raises(UserError, match="line 2"):
        metrics.cut_back(path, lambda row: True)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"step": 2, "loss": 1.0}', "line 2 has no stage or no step"),
        (b'{"stage": "rl", "loss": 1.0}', "line 2 has no stage or no step"),
        (b'{"stage": null, "step": 2}', "line 2 has no stage or no step"),
        (b'{"stage": "rl", "step": "2"}', "line 2 has no stage or no step"),
        (b'{"stage": "rl", "step": 2, "loss": "1"}', "line 2 has loss='1', which is no number"),
        (b'{"stage": "rl", "step": 2, "loss": [1]}', r"loss=\[1\], which is no number"),
    ],
)
def test_an_object_that_is_no_line_of_metrics_is_named(tmp_path, line, fault):
    path = tmp_path / "m"
    path.write_bytes(b'{"stage": "rl", "step": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=fault):
        metrics.read(path)


@pytest.mark.parametrize("rest", [b"{", b"\xff\xfe", b"[1]\n", b"[" * 100_000, b"null\n"])
def test_a_last_line_that_is_damaged_is_ignored(tmp_path, rest):
    path = tmp_path / "m"
    path.write_bytes(b'{"stage": "rl", "step": 1}\n' + rest)
    assert metrics.read(path) == [{"stage": "rl", "step": 1}]


def test_cut_back_does_not_create_a_missing_file(tmp_path):
    metrics.cut_back(tmp_path / "m", lambda row: True)
    assert os.listdir(tmp_path) == []


def test_cut_back_leaves_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "m"
    content = b'{"stage": "rl", "step": 1}\n{"stage": "rl", "step": 2}\n'
    path.write_bytes(content)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        metrics.cut_back(path, lambda row: row["step"] < 2)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["m"]


# With spaces as another writer might put them: kept lines must stay the same byte for byte.
@st.composite
def json_lines(draw):
    row = {"stage": draw(st.text(max_size=5)), "step": draw(st.integers(0, 9)), "x": 0.5}
    space = draw(st.sampled_from([", ", ",", " ,  "]))
    return json.dumps(row, separators=(space, ":"), ensure_ascii=draw(st.booleans())).encode()


@given(st.lists(json_lines(), max_size=6), st.integers(0, 10), st.integers(0, 200))
def test_cut_back_keeps_exactly_the_whole_lines_chosen(lines, last, cut):
    content = b"".join(line + b"\n" for line in lines)[:cut]  # killed after `cut` bytes
    whole = lines[: content.count(b"\n")]
    wanted = [line for line in whole if json.loads(line)["step"] <= last]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "m"
        path.write_bytes(content)
        assert metrics.read(path) == [json.loads(line) for line in whole]
        metrics.cut_back(path, lambda row: row["step"] <= last)
        assert lines_of(path) == wanted
        assert path.read_bytes() == b"".join(line + b"\n" for line in wanted)


def test_a_resumed_run_leaves_the_file_of_an_uninterrupted_one(tmp_path):
    def run(path, first, last):
        with metrics.MetricsWriter(path) as writer:
            for step in range(first, last + 1):
                writer.write("rl", step, {"x": step / 3}, {})

    run(tmp_path / "straight", 1, 6)
    run(tmp_path / "resumed", 1, 5)
    with open(tmp_path / "resumed", "ab") as file:
        file.write(b'{"stage": "rl", "step": 6, "x"')
    metrics.cut_back(tmp_path / "resumed", lambda row: row["step"] <= 3)
    run(tmp_path / "resumed", 4, 6)
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "straight").read_bytes()


class Tracker:
    """Records its calls, and fails at the given steps."""

    name = "Tracker"

    def __init__(self, fails=()):
        self.calls, self._fails = [], fails

    def write(self, stage, step, numbers):
        self.calls.append((stage, step, numbers))
        if step in self._fails:
            raise ConnectionError("no network\nand much more")

    def close(self):
        self.calls.append("close")
        if "close" in self._fails:
            raise OSError


def test_a_tracker_that_fails_is_dropped_with_one_warning(tmp_path, capsys):
    good, bad, last = Tracker(), Tracker(fails=(2,)), Tracker(fails=("close",))
    with metrics.MetricsWriter(tmp_path / "m", [bad, good, last]) as writer:
        for step in (1, 2, 3):
            writer.write("rl", step, {"x": 1.0}, {"step": 2.0})
        writer.close()  # a second close, at the end of the block, does nothing
    numbers = {"x": 1.0, "time/step": 2.0}
    lines = [("rl", step, numbers) for step in (1, 2, 3)]
    assert good.calls == [*lines, "close"]
    assert bad.calls == lines[:2]
    assert len(metrics.read(tmp_path / "m")) == 3
    first, second = capsys.readouterr().err.splitlines()
    assert "Tracker failed" in first and "(no network)" in first
    assert "(OSError)" in second


def test_metrics_and_report_import_no_jax():
    program = (
        "import sys; import diffpo_jax.workdir.metrics, diffpo_jax.report.write, "
        "diffpo_jax.analysis.summary; print('jax' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


def test_a_writer_continues_after_cutting_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics.MetricsWriter(path) as writer:
        for step in (1, 2, 3):
            writer.write("rl", step, {"x": 1.0}, {})
        writer.cut_back(lambda row: row["step"] <= 1)
        writer.write("rl", 2, {"x": 5.0}, {})
    assert [(row["step"], row["x"]) for row in metrics.read(path)] == [(1, 1.0), (2, 5.0)]
