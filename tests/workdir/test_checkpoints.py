"""Checkpoints restore what was saved; a failed save leaves the one before it whole."""

import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from faults import calls, disk

from diffpo_jax.arrays.types import TrainState
from diffpo_jax.config import CheckpointConfig, TokenizerConfig
from diffpo_jax.data import prompts, tokenizers
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import Example
from diffpo_jax.workdir import checkpoints

ROOT = pathlib.Path(__file__).parents[2]


def make_iterator():
    examples = [Example(str(i), f"{i:02}", "1") for i in range(20)]
    tokenizer = tokenizers.make_tokenizer(TokenizerConfig())
    return prompts.make_iterator(examples, tokenizer, prompt_length=2, length=1, batch=3, seed=1)


def make_state(value: float, optimizer=None) -> TrainState:
    optimizer = optimizer or optax.adam(0.1)
    params = {"denoiser": {"w": jnp.full((3, 2), value)}, "threshold": {"b": jnp.full(2, value)}}
    state = TrainState(jnp.asarray(int(value)), params, optimizer.init(params))
    return jax.device_put(state, jax.devices()[0])


def test_state_iterator_and_meta_are_restored(tmp_path):
    config = CheckpointConfig(every=2, keep=2)
    iterator = make_iterator()
    with checkpoints.Checkpoints(tmp_path, config, last_step=5) as saved:
        assert saved.latest() is None
        for step in range(1, 6):
            next(iterator)
            saved.save(step, make_state(step), iterator, {"calls": {"rollout": step}})
    follows = next(iterator)

    again = make_iterator()
    with checkpoints.Checkpoints(tmp_path, config, last_step=5) as saved:
        assert saved.latest() == 5  # the last step is saved although 2 does not divide it
        state, meta = saved.restore(5, make_state(0.0), again)
    assert meta == {"calls": {"rollout": 5}}
    assert int(state.step) == 5
    np.testing.assert_array_equal(state.params["denoiser"]["w"], np.full((3, 2), 5.0))
    np.testing.assert_array_equal(next(again).index, follows.index)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["4", "5"]


def test_one_process_restores_what_two_saved(tmp_path):
    iterator = make_iterator()
    next(iterator)
    with checkpoints.Checkpoints(tmp_path, CheckpointConfig(every=1), last_step=1) as saved:
        saved.save(1, make_state(1), iterator, {})
    follows = next(iterator)
    data = tmp_path / "1" / "data"
    (mine,) = data.glob("process_*")
    for name in ("process_0-of-2.json", "process_1-of-2.json"):
        (data / name).write_bytes(mine.read_bytes())
    mine.unlink()
    again = make_iterator()
    with checkpoints.Checkpoints(tmp_path, CheckpointConfig(every=1), last_step=1) as saved:
        saved.restore(1, make_state(0.0), again)
        np.testing.assert_array_equal(next(again).index, follows.index)
        for file in data.glob("process_*"):
            file.unlink()
        with pytest.raises(UserError, match=r"cannot restore step 1 of .*: no file process_"):
            saved.restore(1, make_state(0.0), again)


def test_keep_every_keeps_steps_forever(tmp_path):
    config = CheckpointConfig(every=1, keep=1, keep_every=2)
    with checkpoints.Checkpoints(tmp_path, config, last_step=5) as saved:
        for step in range(1, 6):
            saved.save(step, make_state(step), make_iterator(), {})
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [2, 4, 5]


def test_params_alone_are_restored_and_their_shapes_checked(tmp_path):
    with checkpoints.Checkpoints(tmp_path, CheckpointConfig(every=1), last_step=1) as saved:
        saved.save(1, make_state(1.0), make_iterator(), {})
    params = make_state(0.0).params
    restored = checkpoints.restore_params(tmp_path, params)
    np.testing.assert_array_equal(restored["threshold"]["b"], [1.0, 1.0])
    other = params | {"threshold": {"b": jnp.zeros(7)}}
    with pytest.raises(UserError, match=r"threshold/b is \(2,\) there and \(7,\) here"):
        checkpoints.restore_params(tmp_path, other)


def test_restoring_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a directory"):
        checkpoints.restore_params(tmp_path / "none", make_state(0.0).params)
    with pytest.raises(UserError, match="no whole checkpoint"):
        checkpoints.restore_params(tmp_path, make_state(0.0).params)


FULL_DISK = """
import resource, sys
sys.path[:0] = [{tests!r}, {tests!r} + "/.."]
import jax.numpy as jnp, optax, pathlib
import test_checkpoints as t
from diffpo_jax.workdir import checkpoints
from diffpo_jax.system.errors import UserError
big = lambda v: t.TrainState(jnp.asarray(1), {{"w": jnp.arange(2.0**18) * v}}, ())
try:
    with checkpoints.Checkpoints(pathlib.Path({path!r}), t.CheckpointConfig(every=1), 9) as saved:
        saved.save(1, big(1.7), t.make_iterator(), {{}})
        saved.wait()
        # No file may grow past 64 KiB any more, as with a full disk or a quota.
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        saved.save(2, big(3.1), t.make_iterator(), {{}})
        saved.wait()
except UserError as error:
    print("ERROR", error)
"""


def test_a_failed_save_leaves_the_one_before(tmp_path):
    program = textwrap.dedent(FULL_DISK).format(
        tests=str(pathlib.Path(__file__).parent), path=str(tmp_path / "saved")
    )
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "ERROR saving" in out.stdout, out.stdout + out.stderr
    assert "step 1 is the last good one" in out.stdout
    params = {"w": jnp.zeros(2**18)}
    restored = checkpoints.restore_params(tmp_path / "saved", params)
    np.testing.assert_array_equal(restored["w"], np.arange(2.0**18, dtype=np.float32) * 1.7)


def test_what_came_first_is_told_although_a_save_fails_too(tmp_path, monkeypatch, capsys):
    saved = checkpoints.Checkpoints(tmp_path / "saved", CheckpointConfig(), 1)

    def close():
        raise ValueError("Error writing local file")

    monkeypatch.setattr(saved._manager, "close", close)
    with pytest.raises(OSError, match="of the metrics"), saved:
        raise OSError("a failed write of the metrics")
    assert "note: a checkpoint that was being saved failed too: " in capsys.readouterr().err


def save(path, steps=(1,), made_by=None):
    """Saves steps whose parameters are the step's number; returns the position of the last."""
    iterator = make_iterator()
    config = CheckpointConfig(every=1, keep=9)
    with checkpoints.Checkpoints(path, config, max(steps), made_by) as saved:
        for step in steps:
            next(iterator)
            saved.save(step, make_state(float(step)), iterator, {"calls": step / 3})
    return iterator


def newest(path):
    """What `restore_newest` finds: step, state, meta, and the data's position."""
    iterator = make_iterator()
    with checkpoints.Checkpoints(path, CheckpointConfig(every=1), 9) as saved:
        found = saved.restore_newest(make_state(0.0), iterator)
    return found and (*found, iterator.get_state())


def flip(path, position):
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)


@pytest.mark.parametrize("part", ["params", "opt", "data", "meta", "record"])
def test_a_changed_bit_is_noticed_or_changes_nothing(tmp_path, part):
    save(tmp_path / "saved")
    whole, rng = newest(tmp_path / "saved"), np.random.default_rng(0)
    files = [
        p for p in (tmp_path / f"saved/1/{part}").rglob("*") if p.is_file() and p.stat().st_size
    ]
    noticed = 0
    for i in range(12):
        path = files[i % len(files)]
        before = path.read_bytes()
        flip(path, int(rng.integers(8 * len(before))))
        try:
            found = newest(tmp_path / "saved")
        except UserError as error:
            noticed += 1
            assert "\n" not in str(error)
        else:
            # The configuration alone is compared by its fields, not by a digest.
            jax.tree.map(np.testing.assert_array_equal, found, whole)
        path.write_bytes(before)
    assert noticed >= 2
    assert [p.name for p in (tmp_path / "saved").iterdir()] == ["1"]  # the only step stays


def test_readers_of_parameters_notice_a_changed_array(tmp_path, monkeypatch):
    save(tmp_path)
    record = tmp_path / "1/record/metadata"
    params = make_state(0.0).params
    text = record.read_text()
    checkpoints.restore_params(tmp_path, params)
    assert '"threshold/b": "float32 7f000000"' in text  # twice the bits of 1.0
    record.write_text(text.replace("7f000000", "7f000001"))
    with pytest.raises(UserError, match=r"step 1 of .* is damaged: params/threshold/b changed"):
        checkpoints.restore_params(tmp_path, params)
    # Read as another type it cannot be compared.
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    assert checkpoints.restore_params(tmp_path, half)["threshold"]["b"].dtype == jnp.bfloat16


def test_damaged_steps_are_set_aside_for_the_newest_whole_one(tmp_path, capsys):
    save(tmp_path, steps=(4, 5, 6))
    (tmp_path / "7").mkdir()
    (array,) = (tmp_path / "6/params/d").iterdir()
    array.write_bytes(b"")
    step, state, meta, _ = newest(tmp_path)
    assert (step, int(state.step), meta) == (5, 5, {"calls": 5 / 3})
    lines = capsys.readouterr().err.splitlines()
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert len(warnings) == 2
    for number, line in zip((7, 6), warnings):
        assert f"step {number} of {tmp_path}" in line
        assert line.endswith(f"It is now {tmp_path}/{number}.damaged; going on from step 5.")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["4", "5", "6.damaged", "7.damaged"]
    with checkpoints.Checkpoints(tmp_path, CheckpointConfig(every=1, keep=9), 9) as saved:
        assert saved.latest() == 5
        saved.save(6, make_state(6.0), make_iterator(), {})
    assert newest(tmp_path)[0] == 6


def test_without_a_whole_step_nothing_is_moved(tmp_path):
    save(tmp_path)
    (tmp_path / "1/params/manifest.ocdbt").write_bytes(b"")
    (tmp_path / "2").mkdir()
    with pytest.raises(UserError, match="cannot restore step 2"):
        newest(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_a_step_knows_the_configuration_that_made_it(tmp_path):
    save(tmp_path, made_by={"seed": 3})
    with checkpoints.Checkpoints(tmp_path, CheckpointConfig(every=1), 1) as saved:
        assert saved.made_by(1) == {"seed": 3}
    for path in (tmp_path / "1/record").iterdir():
        path.unlink()
    (tmp_path / "1/record").rmdir()
    with checkpoints.Checkpoints(tmp_path, CheckpointConfig(every=1), 1) as saved:
        assert saved.made_by(1) is None  # as older versions saved it
    assert newest(tmp_path)[0] == 1


@pytest.mark.parametrize("way", disk.WAYS)
def test_a_step_that_has_its_name_is_whole_after_a_power_cut(tmp_path, way):
    run, shadow, states = tmp_path / "run", disk.Disk(tmp_path), []

    def cut(number, kind, path):
        if (run / "2").exists() and not states:  # the step has its name; nothing else is synced
            states.append(tmp_path / "after")
            shadow.after_power_cut(states[0], np.random.default_rng(0), run, way)

    with calls.watch(tmp_path, cut, after=shadow.synced):
        save(run, steps=(1, 2))
        (run / "2").stat()
    # Whether the last rename is on the disk, nobody knows before its directory is synced.
    step, state, _, _ = newest(tmp_path / "after")
    assert step == int(state.step) and step in (1, 2)
    assert not list((tmp_path / "after").glob("*.damaged"))


@pytest.mark.parametrize("name", ["²", "٣", "७", "007", "+8", "9.damaged", " 9"])
def test_only_directories_named_as_steps_are_steps(tmp_path, name):
    (tmp_path / name).mkdir()
    assert checkpoints.latest_step(tmp_path) is None
    (tmp_path / "5").mkdir()
    (tmp_path / "6").write_text("a file")
    assert checkpoints.latest_step(tmp_path) == 5
