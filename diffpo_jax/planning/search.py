"""The largest batch that fits, by bisection."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from diffpo_jax.config import Config
from diffpo_jax.planning import planner
from diffpo_jax.planning.topology import Topology
from diffpo_jax.system.progress import say

_MOST_PROMPTS = 64  # times those of the configuration


def search(config: Config, topology: Topology) -> dict[str, int | None]:
    """The largest micro-batch of the configuration's rollouts, and the most prompts with it.

    Returns:
      `micro_batch` and `prompts`; None where not even the smallest fits.
    """

    def with_(**changes: int) -> Config:
        return dataclasses.replace(config, rl=dataclasses.replace(config.rl, **changes))

    def updates(micro: int) -> bool:
        return planner.judge(with_(micro_batch=micro), topology, ("update", "score"))

    micro = largest(micro_batches(config), _said("micro_batch", updates))
    if micro is None:
        return {"micro_batch": None, "prompts": None}

    def rolls_out(prompts: int) -> bool:
        changed = with_(prompts=prompts, micro_batch=micro)
        return planner.judge(changed, topology, ("rollout",))

    return {
        "micro_batch": micro,
        "prompts": largest(prompts(config, micro), _said("prompts", rolls_out)),
    }


def micro_batches(config: Config) -> list[int]:
    """Those that divide the rollouts of a step and are divided by the devices that share them."""
    rows, shards = config.rl.prompts * config.rl.group, config.mesh.data * config.mesh.fsdp
    return [n for n in range(shards, rows + 1, shards) if rows % n == 0]


def prompts(config: Config, micro: int) -> list[int]:
    """Numbers of prompts whose rollouts fall into whole micro-batches, up to many times as many."""
    unit = micro // math.gcd(micro, config.rl.group)
    most = _MOST_PROMPTS * config.rl.prompts
    return list(range(unit, max(most, unit) + 1, unit))


def largest(candidates: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The last candidate that fits, where none fits after one that does not; None: none.

    Doubles the place first: large candidates take long to compile.
    """
    low, high = -1, len(candidates)  # fits; does not, or is not there
    place = 0
    while place < high:
        if not fits(candidates[place]):
            high = place
            break
        low, place = place, max(2 * place, place + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(candidates[middle]):
            low = middle
        else:
            high = middle
    return candidates[low] if low >= 0 else None


def _said(name: str, fits: Callable[[int], bool]) -> Callable[[int], bool]:
    def judge(value: int) -> bool:
        verdict = fits(value)
        word = "fits" if verdict else "does not fit"
        say(f"{name}={value} {word}")
        return verdict

    return judge
