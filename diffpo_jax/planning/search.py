"""Searches for the largest batch that fits, by bisection."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from diffpo_jax.config import Config
from diffpo_jax.planning import planner
from diffpo_jax.planning.topology import Topology
from diffpo_jax.system.progress import say

_MAX_PROMPTS_FACTOR = 64  # the largest number of prompts tried, as a multiple of the configured one


def search(config: Config, topology: Topology) -> dict[str, int | None]:
    """Finds the largest micro-batch, and then the most prompts per step with that micro-batch.

    Returns:
      `micro_batch` and `prompts`; None if not even the smallest fits.
    """

    def fits(names: tuple[str, ...], **changes: int) -> bool:
        changed = dataclasses.replace(config, rl=dataclasses.replace(config.rl, **changes))
        verdict = planner.programs_fit(changed, topology, names)
        settings = " ".join(f"{name}={value}" for name, value in changes.items())
        say(f"{settings} {'fits' if verdict else 'does not fit'}")
        return verdict

    micro = largest(micro_batches(config), lambda n: fits(("update", "score"), micro_batch=n))
    if micro is None:
        return {"micro_batch": None, "prompts": None}
    most = largest(
        prompts(config, micro), lambda n: fits(("rollout",), prompts=n, micro_batch=micro)
    )
    return {"micro_batch": micro, "prompts": most}


def micro_batches(config: Config) -> list[int]:
    """The micro-batches that divide a step's rollouts and are multiples of the batch's devices."""
    rows, devices = config.rl.prompts * config.rl.group, config.mesh.batch_devices
    return [n for n in range(devices, rows + 1, devices) if rows % n == 0]


def prompts(config: Config, micro: int) -> list[int]:
    """The numbers of prompts whose rollouts are whole micro-batches, in increasing order."""
    unit = micro // math.gcd(micro, config.rl.group)
    most = _MAX_PROMPTS_FACTOR * config.rl.prompts
    return list(range(unit, max(most, unit) + 1, unit))


def largest(candidates: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The last candidate that fits, or None if none does.

    Candidates must be in increasing order: none may fit after one that does not. The index is
    doubled before it is bisected, as large candidates take long to compile.
    """
    low, high = -1, len(candidates)  # the last index known to fit, the first that does not
    index = 0
    while index < high:
        if not fits(candidates[index]):
            high = index
            break
        low, index = index, max(2 * index, index + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(candidates[middle]):
            low = middle
        else:
            high = middle
    return candidates[low] if low >= 0 else None
