"""Bytes on each device: what a run keeps there throughout, and what each program adds."""

import math
import re
from typing import Any

import jax

from diffpo_jax.distributed import sharding
from diffpo_jax.planning.programs import Compiled, Program, Step

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def bytes_per_device(tree: Any) -> float:
    """The bytes that a pytree of shapes with shardings takes on each device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * sharding.element_bytes(x.dtype)
        for x in jax.tree.leaves(tree)
    )


def resident_bytes(step: Step) -> dict[str, float]:
    """The bytes per device that a run holds throughout, whichever program runs."""
    trained = bytes_per_device(step.state.params)
    return {
        "weights": trained + bytes_per_device(step.frozen),
        "optimiser": bytes_per_device(step.state) - trained,
        # With a KL term, updates compare with the model before RL. Frozen parameters are shared
        # with it, so only the trained ones have a second copy.
        "reference": bytes_per_device(step.reference),
    }


def program_bytes(
    program: Program, compiled: Compiled, resident: dict[str, float], limit: float | None
) -> dict[str, Any]:
    """The bytes per device while a program runs, by kind.

    Returns:
      The resident parts, `batch`, `temporaries`, `results` and `code`; their `sum`; and `over`, by
      how much the sum exceeds the limit (negative if it fits, None without a limit). For a program
      that the compiler refused, `temporaries` is what the compiler asked for; if its message does
      not say, `temporaries`, `sum` and `over` are None.
    """
    counted = bytes_per_device(program.arguments[: program.held])
    batch = bytes_per_device(program.arguments) - counted
    parts: dict[str, Any] = dict(resident) | {"batch": batch}
    if compiled.executable is None:
        requested = requested_temporaries(compiled.refusal, batch + counted)
        parts |= {"temporaries": requested, "results": 0, "code": 0}
    else:
        stats = compiled.executable.memory_analysis()
        # The compiler's figure includes padding, but not weights that the program does not read,
        # such as the threshold head's when it scores: the larger of the two is right.
        parts["batch"] = max(stats.argument_size_in_bytes - counted, batch)
        parts["temporaries"] = stats.temp_size_in_bytes
        parts["results"] = stats.output_size_in_bytes - stats.alias_size_in_bytes
        parts["code"] = stats.generated_code_size_in_bytes
    known = None not in parts.values()
    total = sum(parts.values()) if known else None
    over = total - limit if known and limit is not None else None
    return parts | {"sum": total, "over": over}


def requested_temporaries(refusal: str, argument_bytes: float) -> float | None:
    """The bytes of temporaries named in a compiler's refusal; None if it names none.

    Args:
      argument_bytes: bytes of the program's arguments, which some messages include.
    """
    if match := re.search(r"temporaries \(([\d.]+)([KMGT])\) exceeds", refusal):
        return float(match[1]) * _UNITS[match[2]]
    if match := re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", refusal):
        return float(match[1]) * _UNITS[match[2]] - argument_bytes
    return None
