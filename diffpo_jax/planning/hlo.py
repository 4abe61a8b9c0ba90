"""Reads the text of a compiled program (HLO) into computations and instructions."""

import math
import re
from typing import NamedTuple

_BYTES = {"pred": 1, "token": 0, "opaque": 0, "bf16": 2, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{[^}]*?(?:S\((\d+)\))?\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_NAME = re.compile(r"%([\w.\-]+)")


class Array(NamedTuple):
    """An array of a shape; tuples are several."""

    dtype: str
    dims: tuple[int, ...]
    space: int  # memory: 0 is HBM, or a host's memory; on a TPU 1 is VMEM

    @property
    def bytes(self) -> float:
        """Its size, without padding."""
        return math.prod(self.dims) * _itemsize(self.dtype)


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    result: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]  # names within the same computation
    inside: str  # what stands in the brackets of the operands
    attributes: str  # everything behind them
    root: bool


class Module(NamedTuple):
    """A program."""

    entry: str
    computations: dict[str, dict[str, Instruction]]  # name -> instructions, in order
    partitions: int  # devices it runs on


def parse(text: str) -> Module:
    """Parses what `compiled.as_text()` gives.

    Raises:
      ValueError: the text has no entry computation.
    """
    head = text.partition("\n")[0]
    partitions = re.search(r"num_partitions=(\d+)", head)
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if start := _HEAD.match(line):
            current = computations.setdefault(start[2], {})
            entry = start[2] if start[1] else entry
        elif found := _LINE.match(line):
            instruction = _instruction(found[2], found[3], bool(found[1]))
            if instruction:
                current[instruction.name] = instruction
    if not entry:
        raise ValueError("no ENTRY computation in the text of the program")
    return Module(entry, computations, int(partitions[1]) if partitions else 1)


def called(instruction: Instruction, attribute: str) -> str | None:
    """The computation that an attribute such as `body` names."""
    found = re.search(rf"\b{attribute}=%?([\w.\-]+)", instruction.attributes)
    return found[1] if found else None


def arrays(text: str) -> tuple[Array, ...]:
    """All arrays of a shape's text."""
    return tuple(
        Array(dtype, tuple(int(n) for n in dims.split(",") if n), int(space or 0))
        for dtype, dims, space in _ARRAY.findall(text)
    )


def root(instructions: dict[str, Instruction]) -> Instruction:
    """What a computation returns."""
    return next(i for i in reversed(instructions.values()) if i.root)


def parameters(instructions: dict[str, Instruction]) -> list[Instruction]:
    """The parameters of a computation, in their order."""
    found = [i for i in instructions.values() if i.opcode == "parameter"]
    return sorted(found, key=lambda i: int(i.inside))


def _instruction(name: str, rest: str, is_root: bool) -> Instruction | None:
    shape, rest = _split(rest) if rest.startswith("(") else rest.split(" ", 1)
    opcode, bracket, _ = rest.strip().partition("(")
    if not bracket or not re.fullmatch(r"[a-z][a-z0-9\-]*", opcode):
        return None
    inside, attributes = _split(rest.strip()[len(opcode) :])
    inside = inside[1:-1]
    operands = tuple(_NAME.findall(inside))
    return Instruction(name, arrays(shape), opcode, operands, inside, attributes, is_root)


def _split(text: str) -> tuple[str, str]:
    """Cuts behind the bracket that closes the first."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: at + 1], text[at + 1 :]
    return text, ""


def _itemsize(dtype: str) -> float:
    if dtype in _BYTES:
        return _BYTES[dtype]
    bits = re.match(r"[a-z]+(\d+)", dtype)  # s32, f8e4m3fn: the first number
    return int(bits[1]) / 8 if bits else 0
