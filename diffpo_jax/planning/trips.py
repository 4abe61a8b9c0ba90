"""How often a loop of a compiled program runs, where its counter says so.

A counter starts at a constant, each turn adds a constant to it, and the loop goes on while it is
below a constant.  Not every turn adds 1: XLA doubles the bodies of loops that multiply while they
send.
"""

import re

from diffpo_jax.planning import hlo
from diffpo_jax.planning.hlo import Instruction, Module

_SAME = ("copy", "bitcast", "copy-start", "copy-done")  # what passes a number on


def of_loop(loop: Instruction, inside: dict[str, Instruction], module: Module) -> int | None:
    """The number of turns; None where this is no such loop.

    Args:
      inside: the computation the loop stands in.
    """
    asks = module.computations[hlo.called(loop, "condition")]
    test = _comparison(hlo.root(asks), asks, module)
    if test is None:
        return None
    place, bound = test
    given = _source(loop.operands[0], inside)
    body = module.computations[hlo.called(loop, "body")]
    if place is None or given.opcode != "tuple":
        return None
    if isinstance(bound, str):  # the loop carries it
        bound = _number(given.operands[int(bound)], inside)
    start = _number(given.operands[place], inside)
    step = _step(hlo.root(body), place, body, module)
    if None in (start, step, bound) or step <= 0:
        return None
    return max(-((start - bound) // step), 0)


def _comparison(
    test: Instruction, asks: dict[str, Instruction], module: Module
) -> tuple[int | None, int | str | None] | None:
    """counter < bound: the counter's place in what is carried, and the bound or its place."""
    names: dict[str, str] = {}
    if test.opcode == "fusion":
        within = module.computations[hlo.called(test, "calls")]
        names = dict(zip([p.name for p in hlo.parameters(within)], test.operands))
        test, scope = hlo.root(within), within
    else:
        scope = asks
    if test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    left, right = (_source(name, scope) for name in test.operands)
    left, right = (
        _source(names[one.name], asks) if one.name in names else one for one in (left, right)
    )
    bound = _literal(right)
    if bound is None and (carried := _place(right)) is not None:
        bound = str(carried)
    return _place(left), bound


def _step(
    result: Instruction, place: int, body: dict[str, Instruction], module: Module
) -> int | None:
    """What a turn adds to the counter."""
    if result.opcode != "tuple":
        return None
    total, one = 0, _source(result.operands[place], body)
    while _place(one) != place:
        if one.opcode == "fusion":
            within = module.computations[hlo.called(one, "calls")]
            added = _added(hlo.root(within), within)
            carried = [_source(name, body) for name in one.operands]
            inner = next((c for c in carried if c.opcode != "constant"), None)
            if added is None and hlo.root(within).opcode == "add":
                added = next((n for c in carried if (n := _literal(c)) is not None), None)
        else:
            added = _added(one, body)
            inner = next((c for n in one.operands if _literal(c := _source(n, body)) is None), None)
        if added is None or inner is None or inner is one:
            return None
        total, one = total + added, inner
    return total


def _added(one: Instruction, scope: dict[str, Instruction]) -> int | None:
    if one.opcode != "add":
        return None
    values = [_literal(_source(name, scope)) for name in one.operands]
    return next((v for v in values if v is not None), None)


def _number(name: str, scope: dict[str, Instruction]) -> int | None:
    return _literal(_source(name, scope))


def _source(name: str, scope: dict[str, Instruction]) -> Instruction:
    one = scope[name]
    while one.opcode in _SAME:
        one = scope[one.operands[0]]
    return one


def _literal(one: Instruction) -> int | None:
    found = re.fullmatch(r"-?\d+", one.inside) if one.opcode == "constant" else None
    return int(found[0]) if found else None


def _place(one: Instruction) -> int | None:
    """Where in a tuple of a computation's parameter it stands."""
    found = re.search(r"index=(\d+)", one.attributes)
    return int(found[1]) if one.opcode == "get-tuple-element" and found else None
