"""Watches for collapse: named conditions on a run's metrics, and what to do when one is met.

  reward       the reward of rollouts, which is what training raises, has fallen far below its best
  sliding      more tokens per call at the price of accuracy: too many are committed at once
  evaluation   the reward on validation prompts has fallen far below its best, whatever that of
               rollouts says

Rewards include the price of calls, so that fewer calls for a little accuracy are no fault.
Runs on the host.  Its state is checkpointed, so a resumed run takes the same decisions.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from diffpo_jax.config import GuardConfig

_WATCHED = ("reward", "tokens_per_call", "accuracy")


class Guard(NamedTuple):
    """What has been observed so far.

    Attributes:
      first, last: by metric, the values of the first and of the latest `window` steps.
      best: the best reward on validation prompts; None before the first evaluation.
      best_reward: the best mean reward of rollouts over `window` steps; None before there are any.
      met: the conditions met so far; each is reported once.
      rate: factor on the learning rates.
    """

    first: dict[str, list[float]]
    last: dict[str, list[float]]
    best: float | None = None
    met: tuple[str, ...] = ()
    rate: float = 1.0
    best_reward: float | None = None


def start() -> Guard:
    """Returns a guard that has observed nothing."""
    return Guard({name: [] for name in _WATCHED}, {name: [] for name in _WATCHED})


def to_meta(guard: Guard) -> dict[str, Any]:
    """Converts a guard to JSON-like values, for a checkpoint."""
    return guard._asdict() | {"met": list(guard.met)}


def from_meta(values: Mapping[str, Any] | None) -> Guard:
    """The inverse of `to_meta`; a new guard for None."""
    return Guard(**{**values, "met": tuple(values["met"])}) if values else start()


def observe(
    guard: Guard, values: Mapping[str, float], config: GuardConfig, largest: float = 1.0
) -> tuple[Guard, dict[str, str]]:
    """Takes in the metrics of a step.

    Args:
      values: the step's metrics, with `eval/reward` if there was an evaluation.
      largest: the task's largest reward, the unit of the conditions.

    Returns:
      The guard, and the conditions that are newly met: name -> a description with the numbers.
    """
    if config.action == "off":
        return guard, {}
    first, last = {}, {}
    for name in _WATCHED:  # the checkpoint of an older version may lack one
        new = [values[name]] if name in values else []
        first[name] = (guard.first.get(name, []) + new)[: config.window]
        last[name] = (guard.last.get(name, []) + new)[-config.window :]
    now, mean = values.get("eval/reward"), None
    if len(last["reward"]) == config.window:
        mean = _mean(last["reward"])
    best, best_reward = _larger(guard.best, now), _larger(guard.best_reward, mean)
    conditions = {}
    if mean is not None:
        conditions = _sliding(first, last, config)
        conditions |= _fallen(
            "reward", "the reward of rollouts", mean, best_reward, largest, config
        )
    conditions |= _fallen(
        "evaluation", "the reward on validation prompts", now, best, largest, config
    )
    met = {name: text for name, text in conditions.items() if name not in guard.met}
    rate = guard.rate * config.lower ** len(met) if config.action == "lower" else guard.rate
    return Guard(first, last, best, (*guard.met, *met), rate, best_reward), met


def _sliding(
    first: Mapping[str, list[float]], last: Mapping[str, list[float]], config: GuardConfig
) -> dict[str, str]:
    slow, fast = _mean(first["tokens_per_call"]), _mean(last["tokens_per_call"])
    good, worse = _mean(first["accuracy"]), _mean(last["accuracy"])
    if fast <= config.tokens_per_call * slow or worse >= good - config.accuracy:
        return {}
    return {
        "sliding": f"tokens per call rose from {slow:.3g} to {fast:.3g} while the accuracy of "
        f"rollouts fell from {good:.3f} to {worse:.3f}"
    }


def _fallen(
    name: str,
    what: str,
    now: float | None,
    best: float | None,
    largest: float,
    config: GuardConfig,
) -> dict[str, str]:
    """The condition of this name if a reward is too far below its best."""
    if now is None or best is None or now >= best - getattr(config, name) * largest:
        return {}
    return {name: f"{what} is {now:.3f}, its best was {best:.3f}"}


def _larger(a: float | None, b: float | None) -> float | None:
    return max((x for x in (a, b) if x is not None), default=None)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
