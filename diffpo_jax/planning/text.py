"""Formats a plan as text."""

from collections.abc import Callable, Sequence
from typing import Any


def format_plan(plan: dict[str, Any]) -> str:
    """Formats what `planner.plan` returns, with a column for each program."""
    parts = plan["programs"]
    sections = [_heading(plan), _row("", list(parts)), *_memory(plan), "", *_work(plan), ""]
    return "\n".join([*sections, *_verdicts(plan)])


def format_search(largest: dict[str, int | None]) -> str:
    """Formats what `search.search` returns, with a line for each field."""
    return "\n".join(
        f"no config.rl.{name} fits, not even the smallest"
        if value is None
        else f"largest that fits: --config.rl.{name}={value}"
        for name, value in largest.items()
    )


def _heading(plan: dict[str, Any]) -> str:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items())
    micro = plan["micro_batch"] or plan["rows"]
    devices = f"{plan['devices']} device{'s' * (plan['devices'] > 1)}"
    return (
        f"{plan['topology']}: {devices} ({plan['kind']}), mesh {mesh}\n"
        f"{_count(plan['parameters'])} parameters, {_count(plan['trained'])} trained, "
        f"vocabulary of {plan['vocabulary']:,}\n"
        f"{plan['rows']} rollouts per step, each {plan['prompt_length']} + {plan['length']} tokens "
        f"and {plan['calls']} denoiser calls; micro-batches of {micro} in updates\n"
    )


def _memory(plan: dict[str, Any]) -> list[str]:
    parts = [part["bytes"] for part in plan["programs"].values()]
    names = [name for name in parts[0] if name != "over"]
    lines = ["memory of each device while it runs"]
    lines += [_values(f"  {name}", (part[name] for part in parts), _bytes) for name in names]
    if plan["limit"] is not None:
        lines.append(_row("  limit", [_bytes(plan["limit"])] * len(parts)))
    return lines


def _work(plan: dict[str, Any]) -> list[str]:
    parts = plan["programs"].values()
    lines = [
        _row("runs per RL step", [str(part["times"]) for part in parts]),
        _values("compilation", (part["compile_seconds"] for part in parts), _seconds),
        _values("operations per run and device", (part["flops"] or None for part in parts), _flops),
    ]
    seconds = [part["seconds"] for part in parts]
    if None in seconds:
        return [*lines, "no time: the peak rate of these devices is not known"]
    known = (value or None for value in seconds)
    return [*lines, _values("their time at peak, a lower bound", known, _seconds)]


def _verdicts(plan: dict[str, Any]) -> list[str]:
    lines = []
    for name, part in plan["programs"].items():
        over = part["bytes"]["over"]
        if part["fits"] is False:
            lines.append(
                f"{name} does not fit" + (f": {_bytes(over)} over" if over and over > 0 else "")
            )
            if part["refusal"]:
                lines.append(f"  the compiler: {part['refusal']}")
        elif part["fits"]:
            lines.append(f"{name} fits: {_bytes(-over)} free")
    if plan["fits"] is None:
        lines.append("no verdict: the memory of these devices is not known")
    if step := plan["step"]:
        lines.append(
            f"an RL step takes at least {_seconds(step['seconds'])}: matrix products at peak rate "
            f"and nothing else. At most {_rate(step['tokens_per_second'])} tokens/s and "
            f"{_rate(step['samples_per_second'])} samples/s"
        )
    if plan["topology"].startswith(("cpu", "gpu:")):
        lines.append("memory is that of this machine's compiler; a TPU's would need another amount")
    if plan["share"] is not None:
        lines.append(
            f"the limit is the {plan['share']:.0%} of the memory that JAX takes; "
            "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 before the command changes that, here and in runs"
        )
    return lines


def _values(name: str, values: Any, format_value: Callable[[float], str]) -> str:
    return _row(name, ["-" if value is None else format_value(value) for value in values])


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name:36}" + "".join(f"{cell:>15}" for cell in cells)


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.3f}e9" if parameters >= 1e7 else f"{parameters:,}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(value: float) -> str:
    return _with_unit(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _flops(value: float) -> str:
    return _with_unit(value, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def _with_unit(value: float, step: int, units: Sequence[str]) -> str:
    if value == 0:
        return "0"
    size = 0
    while abs(value) >= step and size < len(units) - 1:
        value, size = value / step, size + 1
    return f"{value:.2f} {units[size]}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s"
