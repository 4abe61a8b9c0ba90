"""What a compiled program does, counted from its text: products, memory, collectives.

A compiler's own count takes the body of every loop once.  Here a loop counts as often as it runs:
scans over layers, micro-batches and anchors run a known number of times; for the others, the
sampler's, the caller says how often.

Bytes to and from memory are an estimate: every fusion reads its operands and writes its results
once, of a slice only the slice.  What a TPU holds in VMEM costs nothing.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence

from diffpo_jax.planning import collectives, hlo, products, trips
from diffpo_jax.planning.hlo import Instruction, Module

# These move nothing themselves.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "call",
    "conditional",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "optimization-barrier",
    "async-start",
    "async-update",
    "async-done",
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one device."""

    flops: float = 0.0
    memory: float = 0.0  # bytes read and written
    moved: dict[str, float] = dataclasses.field(default_factory=dict)  # kind -> bytes sent
    # The same, from slice to slice over the data-centre network; not among those above.
    between: dict[str, float] = dataclasses.field(default_factory=dict)
    open_loops: int = 0  # loops in the text that end when the data says so

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops,
            self.memory + other.memory,
            _added(self.moved, other.moved),
            _added(self.between, other.between),
            self.open_loops + other.open_loops,
        )

    def times(self, count: float) -> "Cost":
        """As often as that; the loops in the text stay as many."""
        moved, between = (
            {kind: count * value for kind, value in kinds.items()}
            for kinds in (self.moved, self.between)
        )
        return Cost(count * self.flops, count * self.memory, moved, between, self.open_loops)


def of_text(text: str, open_loops: Sequence[float] = ()) -> Cost:
    """The cost of a program.

    Args:
      text: of the compiled program.
      open_loops: how often loops of unknown length run: those that are in no other such loop,
        those within them, and so on; 1 where nothing is said.
    """
    return _Counter(hlo.parse(text), tuple(open_loops)).of_program()


class _Counter:
    def __init__(self, module: Module, open_loops: tuple[float, ...]) -> None:
        self._module, self._open_loops = module, open_loops
        self._known: dict[tuple[str, int], Cost] = {}
        everything = (one for lines in module.computations.values() for one in lines.values())
        found = (collectives.chain(one) for one in everything)
        # One collective that goes on beside several fusions stands in each of them.
        self._chains = collections.Counter(chain for chain in found if chain)

    def of_program(self) -> Cost:
        return self._of(self._module.entry, 0)

    def _of(self, name: str, depth: int) -> Cost:
        """A computation's cost; `depth`: open loops around it."""
        if (name, depth) not in self._known:
            inside = self._module.computations[name]
            total = Cost()
            for instruction in inside.values():
                total += self._of_instruction(instruction, name, depth)
            self._known[name, depth] = total
        return self._known[name, depth]

    def _of_instruction(self, one: Instruction, computation: str, depth: int) -> Cost:
        inside = self._module.computations[computation]
        if one.opcode == "while":
            return self._of_loop(one, inside, depth)
        if one.opcode == "conditional":
            return max(
                (self._of(name, depth) for name in _branches(one)), key=lambda cost: cost.flops
            )
        if one.opcode in ("async-update", "async-done"):  # counted where it started
            return Cost()
        operands = [a for name in one.operands for a in _result(inside, name)]
        cost = Cost(memory=self._memory(one, inside))
        if over := collectives.between_slices(one):
            kind, slices = over
            sent = collectives.moved(kind, sum(a.bytes for a in operands), slices)
            return cost + Cost(between={kind: sent})
        if kind := collectives.kind_of(one, computation):
            n = collectives.group_size(one.attributes, self._module.partitions)
            sent = collectives.moved(kind, sum(a.bytes for a in operands), n)
            return cost + Cost(moved={kind: sent / self._chains.get(collectives.chain(one), 1)})
        if len(operands) >= 2:
            cost += Cost(flops=products.flops(one, operands))
        within = hlo.called(one, "calls") or (
            hlo.called(one, "to_apply") if one.opcode == "call" else None
        )
        if within in self._module.computations:
            # What a fusion holds between its instructions is in no memory.
            whole = self._of(within, depth)
            cost += dataclasses.replace(whole, memory=0.0) if one.opcode == "fusion" else whole
        return cost

    def _of_loop(self, loop: Instruction, inside: dict[str, Instruction], depth: int) -> Cost:
        body, condition = hlo.called(loop, "body"), hlo.called(loop, "condition")
        turns = self._turns(loop, inside)
        if turns is not None:
            return (self._of(body, depth) + self._of(condition, depth)).times(turns)
        often = self._open_loops[depth] if depth < len(self._open_loops) else 1
        once = self._of(body, depth + 1) + self._of(condition, depth + 1)
        return once.times(often) + Cost(open_loops=1)

    def _turns(self, loop: Instruction, inside: dict[str, Instruction]) -> int | None:
        """How often a loop runs; None where its data decide."""
        if found := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(found[1])
        return trips.of_loop(loop, inside, self._module)

    def _memory(self, one: Instruction, inside: dict[str, Instruction]) -> float:
        if one.opcode in _FREE or one.opcode.endswith("-done"):
            return 0.0
        if one.opcode.endswith("-start"):  # its result names source and target
            target = one.result[:1]
            read = sum(_in_hbm(a) for name in one.operands for a in _result(inside, name))
            return read + sum(_in_hbm(a) for a in target)
        within = self._module.computations.get(hlo.called(one, "calls") or "")
        if one.opcode == "fusion" and within:
            given = hlo.parameters(within)
            read = sum(
                min(self._read(within, p.name), sum(_in_hbm(a) for a in _result(inside, name)))
                for p, name in zip(given, one.operands)
            )
            return read + self._written(within, one)
        if one.opcode == "dynamic-slice":
            return 2 * sum(_in_hbm(a) for a in one.result)
        if one.opcode == "dynamic-update-slice":
            return 2 * sum(_in_hbm(a) for a in _result(inside, one.operands[1]))
        read = sum(_in_hbm(a) for name in one.operands for a in _result(inside, name))
        return read + sum(_in_hbm(a) for a in one.result)

    def _read(self, within: dict[str, Instruction], name: str) -> float:
        """Bytes of an array that a fused computation looks at."""
        total = 0.0
        for user in within.values():
            if name not in user.operands:
                continue
            first = user.operands[0] == name
            if user.opcode in ("dynamic-slice", "gather", "slice") and first:
                total += sum(a.bytes for a in user.result)
            elif user.opcode == "bitcast":
                total += self._read(within, user.name)
            elif user.opcode == "dynamic-update-slice" and first:
                continue  # written in place
            elif user.opcode == "fusion":
                inner = self._module.computations[hlo.called(user, "calls")]
                at = user.operands.index(name)
                total += self._read(inner, hlo.parameters(inner)[at].name)
            else:
                return float("inf")
        return total

    def _written(self, within: dict[str, Instruction], fusion: Instruction) -> float:
        last = hlo.root(within)
        while last.opcode == "bitcast":
            last = within[last.operands[0]]
        if last.opcode == "dynamic-update-slice":
            return sum(a.bytes for a in _result(within, last.operands[1]))
        return sum(_in_hbm(a) for a in fusion.result)


def _added(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {kind: a.get(kind, 0.0) + b.get(kind, 0.0) for kind in {**a, **b}}


def _branches(one: Instruction) -> list[str]:
    if found := re.search(r"branch_computations=\{([^}]*)\}", one.attributes):
        return [name.strip().lstrip("%") for name in found[1].split(",")]
    return [hlo.called(one, "true_computation"), hlo.called(one, "false_computation")]


def _result(inside: dict[str, Instruction], name: str) -> tuple[hlo.Array, ...]:
    return inside[name].result if name in inside else ()


def _in_hbm(array: hlo.Array) -> float:
    return array.bytes if array.space == 0 else 0.0
