"""Whether this machine, or all machines of a run, can do the work: each check a sentence."""

import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffpo_jax.distributed import hosts
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.files import write_atomic

_ROOM_GIB = 5.0  # less is a warning: checkpoints of a small run fit, those of a large one do not


class Finding(NamedTuple):
    """What a check found; `well` is None where it is worth a look but stops nothing."""

    name: str
    well: bool | None
    said: str


def accelerators(
    paths: tuple[str, ...] = ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0"),
) -> Finding:
    """What JAX sees, against what the machine has.

    Args:
      paths: devices of the system that stand for an accelerator.
    """
    local, kind = jax.local_devices(), jax.local_devices()[0].device_kind
    limit = (local[0].memory_stats() or {}).get("bytes_limit")
    memory = f", {limit / 2**30:.1f} GiB each" if limit else ""
    said = f"{len(local)} x {kind} ({local[0].platform}){memory}; {jax.device_count()} in all"
    there = [path for path in paths if os.path.exists(path)]
    if local[0].platform == "cpu" and there:
        said += (
            f". But {there[0]} is there: JAX cannot use it. Install the extra for it (.[cuda] or "
            ".[tpu]), and look at the driver's version and at who else holds the device"
        )
        return Finding("devices", False, said)
    return Finding("devices", True, said)


def arithmetic(size: int = 512) -> Finding:
    """A product on each local device against numpy's, and how fast a device is at it."""
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
    said = f"right on each; {2 * size**3 / slow / 1e9:,.0f} GFLOP/s in float32 on the slowest"
    return Finding("arithmetic", None if slow > 3 * fast else True, said + _uneven(slow, fast))


def collective() -> Finding:
    """A sum over all devices of all processes."""
    mesh = Mesh(np.asarray(jax.devices()), ("all",))
    count = jax.device_count()
    spread = NamedSharding(mesh, PartitionSpec("all"))
    numbers = np.arange(count, dtype=np.float32)
    placed = jax.make_array_from_callback((count,), spread, lambda index: numbers[index])
    total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
    got = float(total(placed))
    began = time.perf_counter()
    for _ in range(10):
        jax.block_until_ready(total(placed))
    each = (time.perf_counter() - began) / 10
    if got != numbers.sum():
        return Finding("collectives", False, f"a sum over all devices gave {got}, not its value")
    return Finding("collectives", True, f"a sum over {count} devices in {1e3 * each:.2f} ms")


def processes() -> Finding:
    """What travels between hosts beside arrays: rewards and verdicts."""
    count = jax.process_count()
    if count == 1:
        return Finding("processes", True, "one; nothing to join")
    began = time.perf_counter()
    hosts.gather("x" * 2**20)
    seconds = time.perf_counter() - began
    said = f"{count}; 1 MiB from each to each in {seconds:.2f} s"
    return Finding("processes", None if seconds > 2 else True, said)


def directory(path: pathlib.Path, seconds: float = 60.0) -> Finding:
    """Whether a workdir takes files from every process and shows them to all."""
    try:
        hosts.preflight(path, "", "", seconds)
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
        return Finding("workdir", False, f"{path} gave back something else than was written")
    room = shutil.disk_usage(path).free / 2**30
    said = f"{path}: 1 MiB written whole in {seconds:.2f} s, {room:,.1f} GiB free"
    return Finding("workdir", None if room < _ROOM_GIB else True, said)


def look(path: pathlib.Path | None) -> list[Finding]:
    """All checks in order; one that raises is a finding too."""
    checks: list[Callable[[], Finding]] = [accelerators, arithmetic, collective, processes]
    if path is not None:
        checks.append(lambda: directory(path))
    found = []
    for check in checks:
        try:
            found.append(check())
        except Exception as error:
            name = getattr(check, "__name__", "workdir")
            found.append(Finding(name, False, f"{type(error).__name__}: {error}"))
    return found


def verdict(found: list[Finding]) -> tuple[bool, str]:
    """Whether a run may start, and that in words."""
    bad = [finding.name for finding in found if finding.well is False]
    odd = [finding.name for finding in found if finding.well is None]
    if bad:
        return False, f"not ready: {', '.join(bad)}."
    return True, f"ready; worth a look: {', '.join(odd)}." if odd else "ready."


def _uneven(slow: float, fast: float) -> str:
    return f", {slow / fast:.1f} times slower than the fastest" if slow > 3 * fast else ""


def lines(found: list[Finding]) -> list[Any]:
    """A line a finding."""
    marks = {True: "ok", None: "look", False: "BAD"}
    return [f"{marks[f.well]:>5}  {f.name:12} {f.said}" for f in found]
