"""Bytes on each device: what stays there during a run, and what a program takes besides."""

import math
import re
from typing import Any

import jax

from diffpo_jax.distributed import sharding
from diffpo_jax.planning.programs import Compiled, Program, Step

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def on_each(tree: Any) -> float:
    """Bytes that a pytree of shapes with shardings takes on each device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * sharding.bytes_of(x.dtype)
        for x in jax.tree.leaves(tree)
    )


def staying(step: Step) -> dict[str, float]:
    """What a run holds all the time, whatever program runs."""
    trained = on_each(step.state.params)
    return {
        "weights": trained + on_each(step.frozen),
        "optimiser": on_each(step.state) - trained,
        # A KL compares with the model before RL at each update; what is frozen is there already.
        "reference": on_each(step.reference),
    }


def of_program(
    program: Program, compiled: Compiled, staying: dict[str, int], limit: float | None
) -> dict[str, Any]:
    """Bytes while a program runs, by what they are.

    Returns:
      the parts by name; `sum`, and `over`: how far that is above the limit (below: negative).  Of a
      program that the compiler refused, `temporaries` is what it asked for, or None where it did
      not say, and so are `sum` and `over`.
    """
    batch = on_each(program.arguments) - _of_state(program, staying)
    parts: dict[str, Any] = dict(staying) | {"batch": batch}
    if compiled.executable is None:
        parts |= {"temporaries": asked_for(compiled.refusal, batch + _of_state(program, staying))}
        parts |= {"results": 0, "code": 0}
    else:
        stats = compiled.executable.memory_analysis()
        # Of what is padded on the device the padding counts too; weights that a program does not
        # read, such as the head's when it scores, are no arguments of it.
        padded = stats.argument_size_in_bytes - _of_state(program, staying)
        parts["batch"] = max(padded, batch)
        parts["temporaries"] = stats.temp_size_in_bytes
        parts["results"] = stats.output_size_in_bytes - stats.alias_size_in_bytes
        parts["code"] = stats.generated_code_size_in_bytes
    known = None not in parts.values()
    total = sum(parts.values()) if known else None
    over = total - limit if known and limit is not None else None
    return parts | {"sum": total, "over": over}


def asked_for(refusal: str, arguments: int) -> float | None:
    """Bytes of temporaries that the compiler named when it refused a program."""
    if found := re.search(r"temporaries \(([\d.]+)([KMGT])\) exceeds", refusal):
        return float(found[1]) * _UNITS[found[2]]
    if found := re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", refusal):
        return float(found[1]) * _UNITS[found[2]] - arguments
    return None


def _of_state(program: Program, staying: dict[str, int]) -> int:
    """What of the arguments is weights and optimiser state: the whole state, or the weights."""
    whole = hasattr(program.arguments[0], "opt_state")
    return staying["weights"] + (staying["optimiser"] if whole else 0)
