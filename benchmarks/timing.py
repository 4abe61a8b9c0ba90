"""Timing and tables for the benchmarks; imports neither jax nor torch."""

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
    """Seconds of each repeat of one program: wall-clock time, and CPU time over all cores."""

    wall: list[float]
    cpu: list[float]


def run(
    args: argparse.Namespace,
    measure: Callable[[argparse.Namespace, dict[str, Any]], dict[str, Any]],
    report: Callable[[dict[str, Any]], str],
) -> None:
    """Runs a script: measures, prints, writes.  A `UserError` is one line and exit status 2."""
    before = machine()  # before this process adds to the load
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
    """Times the calls in turn, A B C A B C ..., so that drift of the machine affects all alike.

    Args:
      calls: functions that return only when their work is done.
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
    """Returns median, least and most seconds, and the speed at the median and at best.

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
    """Returns a jitted function compiled for these arguments, and the seconds it took."""
    began = time.perf_counter()
    program = jitted.lower(*args).compile()
    return program, time.perf_counter() - began


def ratio(a: Times, b: Times) -> dict[str, float]:
    """Returns the median of a/b over neighbouring timings, so that the machine's drift cancels.

    The ratio of CPU times is hardly affected by other work on the machine.  It is fair with one
    thread; threads that wait for one another may use CPU time while waiting.
    """
    return {
        "ratio": float(np.median(np.divide(a.wall, b.wall))),
        "ratio_cpu": float(np.median(np.divide(a.cpu, b.cpu))),
    }


def pair_ratios(a: list[float], b: list[float]) -> dict[str, float]:
    """Returns median, least and most of a/b over neighbouring timings."""
    ratios = np.divide(a, b)
    return {
        "median": float(np.median(ratios)),
        "min": float(ratios.min()),
        "max": float(ratios.max()),
    }


def cores() -> int:
    """Returns the number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Describes the machine and its load average (1, 5, 15 minutes), which counts other work."""
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
    """Returns a warning if the machine was busy when `machine()` was called, else None."""
    load = machine["load_average"]
    if not load or load[0] < 0.3:
        return None
    return (
        f"warning: the machine was busy (load average {load[0]} on {machine['cores']} cores). "
        "Times are too long, and unevenly so: a library whose threads wait for one another loses "
        "most. CPU seconds with one thread are the least affected."
    )


def headline(machine: dict[str, Any], versions: dict[str, str | None]) -> list[str]:
    """Returns lines that say on which machine and versions the numbers were measured.

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
    """Returns the versions of Python and of packages; None for a package that is missing."""
    result: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            result[name] = None
    return result


def forward_flops(
    *, sequence: int, scored: int, width: int, layers: int, ff: int, vocab: int
) -> float:
    """Returns the operations of the matrix products of one denoiser pass over one sequence.

    Norms, softmax and rotary embedding are not counted, as is customary.  The heads together are
    as wide as the model, and there are as many key heads as query heads.

    Args:
      sequence: S, tokens of prompt and completion.
      scored: positions that are projected to the vocabulary.
    """
    block = 2 * (4 * width * width + 3 * width * ff) + 4 * sequence * width
    return float(layers * sequence * block + 2 * scored * width * vocab)


# Columns of the table whose lines `row` makes.
COLUMNS = ("", "median s", "min s", "max s", "CPU s", "GFLOP/s", "% of GEMM", "compile s")


def row(name: str, one: dict[str, float], peak: float, compile_seconds: float | None) -> list[Any]:
    """Returns a table row: a program's `summary`, and its speed as a share of `peak` GFLOP/s."""
    shown = ("seconds", "seconds_min", "seconds_max", "cpu_seconds", "gflops")
    return [name, *(one[key] for key in shown), 100 * one["gflops"] / peak, compile_seconds]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Formats a table: the first column left-aligned, four digits per number, None as "-"."""
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
