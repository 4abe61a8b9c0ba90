"""The doctor's checks: what is well is said to be, and what is not."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffpo_jax.distributed import checkup

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_all_is_well_here(tmp_path):
    found = checkup.look(tmp_path / "run")
    assert [f.name for f in found] == [
        "devices", "arithmetic", "collectives", "processes", "workdir",
    ]  # fmt: skip
    assert not [f for f in found if f.well is False]
    assert "8 x cpu" in found[0].said
    assert "a sum over 8 devices" in found[2].said
    assert list((tmp_path / "run").iterdir()) == []  # nothing is left
    assert checkup.verdict(found)[0]


def test_an_accelerator_that_jax_does_not_see(tmp_path):
    device = tmp_path / "nvidia0"
    assert checkup.accelerators((str(device),)).well
    device.touch()
    finding = checkup.accelerators((str(device),))
    assert finding.well is False
    assert "nvidia0 is there: JAX cannot use it" in finding.said


def test_wrong_products(monkeypatch):
    monkeypatch.setattr(checkup.jnp, "matmul", lambda x, y, precision: x @ y + 1)
    finding = checkup.arithmetic(32)
    assert finding.well is False
    assert finding.said.count("is off by 1") == 8


def test_a_sum_that_is_wrong(monkeypatch):
    monkeypatch.setattr(checkup.jnp, "sum", lambda x: x[0])
    assert checkup.collective().well is False


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    finding = checkup.directory(tmp_path / "file" / "run")
    assert finding.well is False
    assert "Not a directory" in finding.said


def test_little_room_is_worth_a_look(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2**30})
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda path: usage)
    assert checkup.directory(tmp_path).well is None


def test_a_check_that_raises_is_a_finding(monkeypatch):
    def broken():
        raise RuntimeError("no such device")

    monkeypatch.setattr(checkup, "collective", broken)
    found = checkup.look(None)
    assert found[2] == checkup.Finding("broken", False, "RuntimeError: no such device")
    assert checkup.verdict(found) == (False, "not ready: broken.")


@pytest.mark.parametrize(
    ("wells", "expected"),
    [
        ([True, True], (True, "ready.")),
        ([True, None], (True, "ready; worth a look: b.")),
        ([False, None], (False, "not ready: a.")),
    ],
)
def test_verdicts(wells, expected):
    found = [checkup.Finding(name, well, "") for name, well in zip("ab", wells)]
    assert checkup.verdict(found) == expected


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "diffpo_jax.doctor", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("ready")
    assert f"jax {jax.__version__}" in done.stdout
    assert np.sum([line.lstrip().startswith("ok") for line in done.stdout.splitlines()]) >= 3
