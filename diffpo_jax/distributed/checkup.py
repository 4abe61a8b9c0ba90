"""Checks whether this machine, or all machines of a run, can do the work."""

import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffpo_jax.distributed import hosts
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.files import write_atomic

_MIN_FREE_GIB = 5.0  # enough for the checkpoints of a small run, but not of a large one


class Finding(NamedTuple):
    """The result of a check; `ok` is None for a warning, which does not prevent a run."""

    name: str
    ok: bool | None
    text: str


def check_accelerators(
    paths: tuple[str, ...] = ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0"),
) -> Finding:
    """Compares the devices that JAX finds with those of the machine.

    Args:
      paths: device files that show that there is an accelerator.
    """
    local, kind = jax.local_devices(), jax.local_devices()[0].device_kind
    limit = (local[0].memory_stats() or {}).get("bytes_limit")
    memory = f", {limit / 2**30:.1f} GiB each" if limit else ""
    text = f"{len(local)} x {kind} ({local[0].platform}){memory}; {jax.device_count()} in all"
    present = [path for path in paths if os.path.exists(path)]
    if local[0].platform == "cpu" and present:
        text += (
            f". But {present[0]} exists and JAX cannot use it. Install the extra .[cuda] or "
            ".[tpu], and check the driver's version and whether another process holds the device"
        )
        return Finding("devices", False, text)
    return Finding("devices", True, text)


def check_arithmetic(size: int = 512) -> Finding:
    """Compares a product on each local device with numpy's, and measures its rate."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    product = jax.jit(lambda x, y: jnp.matmul(x, y, precision="highest"))
    wrong, seconds = [], []
    for device in jax.local_devices():
        x, y = jax.device_put((a, b), device)
        error = np.abs(np.asarray(product(x, y)) - a @ b).max()
        if not error < 1e-4 * size:
            wrong.append(f"{device} is off by {error:.2g}")
        began = time.perf_counter()
        jax.block_until_ready([product(x, y) for _ in range(10)])
        seconds.append((time.perf_counter() - began) / 10)
    if wrong:
        return Finding("arithmetic", False, f"products are wrong: {'; '.join(wrong)}")
    slow, fast = max(seconds), min(seconds)
    uneven = slow > 3 * fast
    text = f"correct on each; {2 * size**3 / slow / 1e9:,.0f} GFLOP/s in float32 on the slowest"
    text += f", {slow / fast:.1f} times slower than the fastest" if uneven else ""
    return Finding("arithmetic", None if uneven else True, text)


def check_collectives() -> Finding:
    """Checks and times a sum over all devices of all processes."""
    # Not `mesh.make_mesh`: this mesh has one axis and needs no configuration.
    mesh = Mesh(np.asarray(jax.devices()), ("all",))
    count = jax.device_count()
    split = NamedSharding(mesh, PartitionSpec("all"))
    numbers = np.arange(count, dtype=np.float32)
    placed = jax.make_array_from_callback((count,), split, lambda index: numbers[index])
    total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
    result = float(total(placed))
    began = time.perf_counter()
    for _ in range(10):
        jax.block_until_ready(total(placed))
    seconds = (time.perf_counter() - began) / 10
    if result != numbers.sum():
        text = f"a sum over all devices gave {result} instead of {numbers.sum()}"
        return Finding("collectives", False, text)
    return Finding("collectives", True, f"a sum over {count} devices in {1e3 * seconds:.2f} ms")


def check_processes() -> Finding:
    """Times an exchange of host data between processes, as of rewards and verdicts in a run."""
    count = jax.process_count()
    if count == 1:
        return Finding("processes", True, "one; there are no others to join")
    began = time.perf_counter()
    hosts.gather("x" * 2**20)
    seconds = time.perf_counter() - began
    text = f"{count}; 1 MiB from each to each in {seconds:.2f} s"
    return Finding("processes", None if seconds > 2 else True, text)


def check_workdir(path: pathlib.Path, timeout: float = 60.0) -> Finding:
    """Checks that every process can write to a workdir and sees the files of the others.

    Args:
      timeout: in seconds, for the answers of the other processes.
    """
    try:
        hosts.preflight(path, "", "", timeout)
        path.mkdir(parents=True, exist_ok=True)
        trial = path / f".doctor-{jax.process_index()}"
        began = time.perf_counter()
        write_atomic(trial, b"x" * 2**20)
        seconds = time.perf_counter() - began
        whole = trial.read_bytes() == b"x" * 2**20
        trial.unlink()
    except (OSError, UserError) as error:
        return Finding("workdir", False, str(error))
    if not whole:
        return Finding("workdir", False, f"{path} returned other data than was written")
    free = shutil.disk_usage(path).free / 2**30
    text = f"{path}: 1 MiB written and synced in {seconds:.2f} s, {free:,.1f} GiB free"
    return Finding("workdir", None if free < _MIN_FREE_GIB else True, text)


def run_checks(path: pathlib.Path | None) -> list[Finding]:
    """Runs all checks in order; a check that raises counts as failed.

    Args:
      path: a workdir; None skips its check.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("devices", check_accelerators),
        ("arithmetic", check_arithmetic),
        ("collectives", check_collectives),
        ("processes", check_processes),
    ]
    if path is not None:
        checks.append(("workdir", lambda: check_workdir(path)))
    findings = []
    for name, check in checks:
        try:
            findings.append(check())
        except Exception as error:
            findings.append(Finding(name, False, f"{type(error).__name__}: {error}"))
    return findings


def verdict(findings: list[Finding]) -> tuple[bool, str]:
    """Whether a run may start, and a sentence that says so."""
    failed = [finding.name for finding in findings if finding.ok is False]
    warnings = [finding.name for finding in findings if finding.ok is None]
    if failed:
        return False, f"not ready: {', '.join(failed)}."
    return True, f"ready, with warnings: {', '.join(warnings)}." if warnings else "ready."


def format_findings(findings: list[Finding]) -> str:
    """Formats findings, one per line."""
    marks = {True: "ok", None: "WARN", False: "BAD"}
    return "\n".join(f"{marks[f.ok]:>5}  {f.name:12} {f.text}" for f in findings)
