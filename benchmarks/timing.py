"""Clocks and tables for the benchmarks; imports neither jax nor torch."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np


class Times(NamedTuple):
    """Seconds of the repeats of one program, by the clock and of all cores together."""

    wall: list[float]
    cpu: list[float]


def run(
    args: argparse.Namespace,
    measure: Callable[[argparse.Namespace, dict[str, Any]], dict[str, Any]],
    report: Callable[[dict[str, Any]], str],
) -> None:
    """A script: measures, prints and writes; a user's mistake is one line and exit status 2."""
    before = machine()  # before our own work adds to the load
    from diffpo_jax.system import files
    from diffpo_jax.system.errors import UserError

    try:
        result = measure(args, before)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(report(result))
    if args.json:
        files.write_json(args.json, result)


def interleave(
    calls: dict[str, Callable[[], Any]],
    repeats: int,
    wall: Callable[[], float] = time.perf_counter,
    cpu: Callable[[], float] = time.process_time,
) -> dict[str, Times]:
    """Times every call in turn, A B C A B C ...: a machine's speed drifts, for all alike.

    Args:
      calls: return only when their work is done.
    """
    times = {name: Times([], []) for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = wall(), cpu()
            call()
            times[name].wall.append(wall() - began[0])
            times[name].cpu.append(cpu() - began[1])
    return times


def summary(times: Times, flops: float) -> dict[str, float]:
    """Median, least and most seconds, and the speed at the median and at its best.

    Args:
      flops: floating-point operations of one call.
    """
    median = float(np.median(times.wall))
    return {
        "seconds": median,
        "seconds_min": float(min(times.wall)),
        "seconds_max": float(max(times.wall)),
        "cpu_seconds": float(np.median(times.cpu)),
        "gflops": flops / median / 1e9,
        "gflops_max": flops / min(times.wall) / 1e9,
    }


def compiled(jitted: Any, *args: Any) -> tuple[Any, float]:
    """A jitted function compiled for these arguments, and the seconds that took."""
    began = time.perf_counter()
    program = jitted.lower(*args).compile()
    return program, time.perf_counter() - began


def ratio(a: Times, b: Times) -> dict[str, float]:
    """Median of a/b over neighbours in time, so that drift between the pairs cancels.

    By CPU time as well, which other work on the machine hardly touches: fair with one thread
    (threads that wait for one another may burn it).
    """
    return {
        "ratio": float(np.median(np.divide(a.wall, b.wall))),
        "ratio_cpu": float(np.median(np.divide(a.cpu, b.cpu))),
    }


def cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """The machine, and how busy it is: the load average (1, 5, 15 minutes) counts other work."""
    load = [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "cores_usable": cores(),
        "load_average": load,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def busy(machine: dict[str, Any]) -> str | None:
    """A line of warning where other work was on the machine when `machine()` was called."""
    load = machine["load_average"]
    if not load or load[0] < 0.3:
        return None
    return (
        f"warning: the machine was busy (load average {load[0]} on {machine['cores']} cores). "
        "Times are too long, and unevenly so: a library whose threads wait for one another loses "
        "most. One thread and CPU seconds are the least disturbed."
    )


def headline(machine: dict[str, Any], versions: dict[str, str | None]) -> list[str]:
    """Lines that say what the numbers below them were measured on.

    Args:
      machine: from `machine()`, with "load_average_after".
    """
    lines = [
        f"{machine['cores_usable']} of {machine['cores']} cores ({machine['machine']}), "
        f"load average {machine['load_average']} before, {machine['load_average_after']} after",
        ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    ]
    if machine["xla_flags"]:
        lines.append(f"XLA_FLAGS={machine['xla_flags']}")
    if warning := busy(machine):
        lines.append(warning)
    return lines


def versions(*packages: str) -> dict[str, str | None]:
    """Versions of Python and of packages, None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def forward_flops(
    *, sequence: int, scored: int, width: int, layers: int, ff: int, vocab: int
) -> float:
    """Operations of the matrix products of one denoiser pass over one sequence.

    Everything else (norms, softmax, rotary embedding) is left out, as is customary.  Heads share
    the width and keys have as many heads as queries.

    Args:
      sequence: S, prompt and completion.
      scored: positions that are projected to the vocabulary.
    """
    block = 2 * (4 * width * width + 3 * width * ff) + 4 * sequence * width
    return float(layers * sequence * block + 2 * scored * width * vocab)


# Of the table that `row` makes lines of.
COLUMNS = ("", "median s", "min s", "max s", "CPU s", "GFLOP/s", "% of GEMM", "compile s")


def row(name: str, one: dict[str, float], peak: float, compile_seconds: float | None) -> list[Any]:
    """A line of the table: a program's `summary` and its speed as a share of `peak` GFLOP/s."""
    shown = ("seconds", "seconds_min", "seconds_max", "cpu_seconds", "gflops")
    return [name, *(one[key] for key in shown), 100 * one["gflops"] / peak, compile_seconds]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns of equal width, the first to the left, numbers to four figures, None as "-"."""
    cells = [list(columns), *([_cell(x) for x in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = []
    for row in cells:
        rest = (x.rjust(w) for x, w in zip(row[1:], widths[1:]))
        lines.append("  ".join([row[0].ljust(widths[0]), *rest]))
    return "\n".join(lines)


def _cell(x: Any) -> str:
    if x is None:
        return "-"
    return f"{x:.4g}" if isinstance(x, float) else str(x)
