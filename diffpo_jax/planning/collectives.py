"""What a collective moves between chips."""

import math
import re

from diffpo_jax.planning.hlo import Instruction

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


def kind_of(instruction: Instruction, computation: str) -> str | None:
    """Which collective it is, if one; an asynchronous one counts where it starts.

    Args:
      computation: the name of the one it stands in.
    """
    name = instruction.opcode.removesuffix("-start")
    # On TPUs a reduce-scatter is a fusion of this name, of an all-reduce and a slice.
    if name == "all-reduce" and computation.startswith("all-reduce-scatter"):
        return "reduce-scatter"
    return name if name in KINDS else None


def between_slices(instruction: Instruction) -> tuple[str, int] | None:
    """Which collective goes over the data-centre network, and between how many slices, if one.

    TPU's compiler leaves that network to the host: it hands over what was first summed or gathered
    within a slice, as a `send` that names the collective and, for each slice, the devices.
    """
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
    if instruction.opcode != "send" or not found:
        return None
    target = re.search(r'_xla_megascale_target="\{([\d,]*)\}', instruction.attributes)
    slices = len(target[1].split(",")) if target else 2
    return found[1].lower().replace("_", "-"), slices


def chain(instruction: Instruction) -> str | None:
    """What parts of one collective share, where TPU's compiler spreads it over several fusions."""
    found = re.search(r'chain_id="(\d+)"', instruction.attributes)
    return found[1] if found else None


def moved(kind: str, operand_bytes: float, n: int) -> float:
    """Bytes that each chip sends, of the algorithms that send least (a ring's).

    All-gather (n - 1) x its operand, reduce-scatter and all-to-all
    (n - 1)/n x, all-reduce twice that (it is the two after each other), a permutation its operand.

    Args:
      operand_bytes: of the operands, on one chip.
      n: chips in a group.
    """
    if kind == "all-gather":
        return (n - 1) * operand_bytes
    if kind == "all-reduce":
        return 2 * (n - 1) / n * operand_bytes
    if kind in ("reduce-scatter", "all-to-all", "ragged-all-to-all"):
        return (n - 1) / n * operand_bytes
    return operand_bytes


def group_size(attributes: str, partitions: int) -> int:
    """Chips of a group, from `replica_groups` in any of its forms; all, where none is given."""
    found = re.search(r"replica_groups=(.*)", attributes)
    if not found:
        return partitions
    text = found[1]
    if mesh := re.match(r"mesh\[([^\]]*)\]\s*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        # 'x':(2)4 is a part of axis x, of size 4.
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[name]) for name, part in axes)
    if iota := re.match(r"\[\d+,(\d+)\]<=", text):
        return int(iota[1])
    if lists := re.match(r"\{\{([\d,]*)\}", text):
        return len(lists[1].split(","))
    return partitions
