"""A plan as text."""

from collections.abc import Callable
from typing import Any


def of_plan(plan: dict[str, Any]) -> str:
    """Several tables, a column for each program.

    Args:
      plan: of `planner.plan`.
    """
    names = list(plan["programs"])
    sections = [_head(plan), _row("", names), *_memory(plan), "", *_work(plan), "", *_time(plan)]
    return "\n".join([*sections, "", *_verdicts(plan)])


def of_search(found: dict[str, Any]) -> str:
    """What a search found, in two lines."""
    return "\n".join(
        f"of config.rl.{name} none fits, not even the smallest"
        if value is None
        else f"largest that fits: --config.rl.{name}={value}"
        for name, value in found.items()
    )


def _head(plan: dict[str, Any]) -> str:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items())
    micro = plan["micro_batch"] or plan["rows"]
    return (
        f"{plan['topology']}: {plan['devices']} devices ({plan['kind']}), mesh {mesh}\n"
        f"{plan['parameters'] / 1e9:.3f}e9 parameters, {plan['trained'] / 1e9:.3f}e9 trained, "
        f"vocabulary of {plan['vocabulary']:,}\n"
        f"{plan['rows']} rollouts a step of {plan['prompt_length']} + {plan['length']} tokens, "
        f"gradients of {micro} at a time, {plan['calls']} denoiser calls a rollout\n"
    )


def _memory(plan: dict[str, Any]) -> list[str]:
    parts = [part["bytes"] for part in plan["programs"].values()]
    lines = ["on each device while it runs"]
    for name in parts[0]:
        if name not in ("sum", "over"):
            lines.append(_values(name, parts, lambda p, name=name: p[name], _gib))
    lines.append(_values("sum", parts, lambda p: p["sum"], _gib))
    limit = plan["limit"]
    if limit is not None:
        lines.append(_row("  limit", [_gib(limit)] * len(parts)))
    return lines


def _work(plan: dict[str, Any]) -> list[str]:
    parts = [part["cost"] or {} for part in plan["programs"].values()]
    lines = ["one run, on each device"]
    lines.append(_values("operations", parts, lambda p: p.get("flops"), _flop))
    once = "the compiler's count, loops once"
    lines.append(_values(once, parts, lambda p: p.get("flops_loops_once"), _flop))
    lines.append(_values("read and written", parts, lambda p: p.get("memory"), _bytes))
    for words, field in (("sent", "moved"), ("between slices", "between")):
        for kind in sorted({kind for part in parts for kind in part.get(field, {})}):
            lines.append(
                _values(
                    f"{words}, {kind}",
                    parts,
                    lambda p, field=field, kind=kind: p[field].get(kind, 0.0) if p else None,
                    _bytes,
                )
            )
    return lines


def _time(plan: dict[str, Any]) -> list[str]:
    parts = list(plan["programs"].values())
    lines = [_row("runs in an RL step", [str(part["times"]) for part in parts])]
    lines.append(_values("compilation", parts, lambda p: p["compile_seconds"], _seconds))
    if all(part["seconds"] is None for part in parts):
        return [*lines, "no peak rates of these devices are known: no times are predicted"]
    lines.append("one run, at the least")
    for name in ("compute", "HBM", "network"):
        lines.append(
            _values(name, parts, lambda p, name=name: (p["seconds"] or {}).get(name), _seconds)
        )
    lines.append(_row("  bound", [part["bound"] or "-" for part in parts]))
    return lines


def _verdicts(plan: dict[str, Any]) -> list[str]:
    lines = []
    for name, part in plan["programs"].items():
        over = part["bytes"]["over"]
        if part["fits"] is False:
            by = f": {_gib(over)} over" if over is not None and over > 0 else ""
            lines.append(f"{name} does not fit{by}")
            if part["refusal"]:
                lines.append(f"  the compiler: {part['refusal']}")
        elif part["fits"]:
            lines.append(f"{name} fits: {_gib(-over)} free")
    if plan["fits"] is None:
        lines.append("no verdict: how much memory these devices have is not known")
    step = plan["step"]
    if step:
        lines.append(
            f"an RL step: {_seconds(step['seconds'])} at the least, "
            f"{step['tokens_per_second']:,.0f} tokens/s and "
            f"{step['samples_per_second']:.2f} samples/s at the most (peak rates, perfect overlap, "
            "nothing of the host)"
        )
    if any((part["cost"] or {}).get("between") for part in plan["programs"].values()):
        lines.append(
            "what is sent between slices is in none of these times: no rate of the data-centre "
            "network is known here"
        )
    if plan["topology"].startswith(("cpu", "gpu")):
        lines.append("estimates of this machine's compiler; a TPU's compiler makes other programs")
    return lines


def _values(
    name: str, parts: list[Any], get: Callable[[Any], Any], show: Callable[[float], str]
) -> str:
    values = [get(part) for part in parts]
    return _row(f"  {name}", ["-" if value is None else show(value) for value in values])


def _row(name: str, cells: list[str]) -> str:
    return f"{name:36}" + "".join(f"{cell:>15}" for cell in cells)


def _gib(value: float) -> str:
    return _with_unit(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _bytes(value: float) -> str:
    return _with_unit(value, 1000, ("B", "kB", "MB", "GB", "TB", "PB"))


def _flop(value: float) -> str:
    return _with_unit(value, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def _with_unit(value: float, step: int, units: tuple[str, ...]) -> str:
    size = 0
    while abs(value) >= step and size < len(units) - 1:
        value, size = value / step, size + 1
    return f"{value:.2f} {units[size]}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s"
