"""The doctor's checks pass on this machine, and report what is wrong on others."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffpo_jax.distributed import checkup

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_all_checks_pass_on_this_machine(tmp_path):
    findings = checkup.run_checks(tmp_path / "run")
    assert [f.name for f in findings] == [
        "devices", "arithmetic", "collectives", "processes", "workdir",
    ]  # fmt: skip
    assert not [f for f in findings if f.ok is False]
    assert "8 x cpu" in findings[0].text
    assert "a sum over 8 devices" in findings[2].text
    assert list((tmp_path / "run").iterdir()) == []  # no file is left behind
    assert checkup.verdict(findings)[0]


def test_an_accelerator_that_jax_does_not_find_is_reported(tmp_path):
    device = tmp_path / "nvidia0"
    assert checkup.check_accelerators((str(device),)).ok
    device.touch()
    finding = checkup.check_accelerators((str(device),))
    assert finding.ok is False
    assert "nvidia0 exists and JAX cannot use it" in finding.text


def test_wrong_products_are_reported(monkeypatch):
    monkeypatch.setattr(checkup.jnp, "matmul", lambda x, y, precision: x @ y + 1)
    finding = checkup.check_arithmetic(32)
    assert finding.ok is False
    assert finding.text.count("is off by 1") == 8


def test_a_wrong_sum_is_reported(monkeypatch):
    monkeypatch.setattr(checkup.jnp, "sum", lambda x: x[0])
    assert checkup.check_collectives().ok is False


def test_a_workdir_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    finding = checkup.check_workdir(tmp_path / "file" / "run")
    assert finding.ok is False
    assert "Not a directory" in finding.text


def test_little_free_space_is_a_warning(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2**30})
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda path: usage)
    assert checkup.check_workdir(tmp_path).ok is None


def test_a_check_that_raises_counts_as_failed(monkeypatch):
    def broken():
        raise RuntimeError("no such device")

    monkeypatch.setattr(checkup, "check_collectives", broken)
    findings = checkup.run_checks(None)
    assert findings[2] == checkup.Finding("collectives", False, "RuntimeError: no such device")
    assert checkup.verdict(findings) == (False, "not ready: collectives.")


@pytest.mark.parametrize(
    ("oks", "expected"),
    [
        ([True, True], (True, "ready.")),
        ([True, None], (True, "ready, with warnings: b.")),
        ([False, None], (False, "not ready: a.")),
    ],
)
def test_a_verdict_names_failures_or_warnings(oks, expected):
    findings = [checkup.Finding(name, ok, "") for name, ok in zip("ab", oks)]
    assert checkup.verdict(findings) == expected


def test_the_command_prints_findings_and_a_verdict(tmp_path):
    command = [sys.executable, "-m", "diffpo_jax.doctor", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("ready")
    assert f"jax {jax.__version__}" in done.stdout
    assert np.sum([line.lstrip().startswith("ok") for line in done.stdout.splitlines()]) >= 3
