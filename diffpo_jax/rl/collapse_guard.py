"""Watches for collapse: named conditions on a run's metrics, and what to do when one is met.

Parallel decoding inside RL fails in a few ways, and each shows before the reward does:

  entropy      the denoiser has become certain everywhere, and exploration has ended
  sliding      more tokens per call at the price of accuracy: too many are committed at once
  evaluation   held-out accuracy is far below its best, whatever the training reward says

Runs on the host.  Its state is checkpointed, so a resumed run takes the same decisions.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from diffpo_jax.config import GuardConfig

_WATCHED = ("entropy", "tokens_per_call", "accuracy")


class Guard(NamedTuple):
    """What has been observed so far.

    Attributes:
      first, last: by metric, the values of the first and of the latest `window` steps.
      best: the best validation accuracy; None before the first evaluation.
      met: the conditions met so far; each is reported once.
      rate: factor on the learning rates.
    """

    first: dict[str, list[float]]
    last: dict[str, list[float]]
    best: float | None = None
    met: tuple[str, ...] = ()
    rate: float = 1.0


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
    guard: Guard, values: Mapping[str, float], config: GuardConfig
) -> tuple[Guard, dict[str, str]]:
    """Takes in the metrics of a step.

    Args:
      values: the step's metrics, with `eval/accuracy` if there was an evaluation.

    Returns:
      The guard, and the conditions that are newly met: name -> a description with the numbers.
    """
    if config.action == "off":
        return guard, {}
    first, last = {}, {}
    for name in _WATCHED:
        new = [values[name]] if name in values else []
        first[name] = (guard.first[name] + new)[: config.window]
        last[name] = (guard.last[name] + new)[-config.window :]
    now = values.get("eval/accuracy")
    best = guard.best if now is None else max(now, guard.best if guard.best is not None else now)
    conditions = _conditions(first, last, now, best, config)
    met = {name: text for name, text in conditions.items() if name not in guard.met}
    rate = guard.rate * config.lower ** len(met) if config.action == "lower" else guard.rate
    return Guard(first, last, best, (*guard.met, *met), rate), met


def _conditions(
    first: dict[str, list[float]],
    last: dict[str, list[float]],
    now: float | None,
    best: float | None,
    config: GuardConfig,
) -> dict[str, str]:
    """All conditions that are met now, with their numbers."""
    met = {}
    if len(last["entropy"]) == config.window:
        before, after = _mean(first["entropy"]), _mean(last["entropy"])
        if after < config.entropy * before:
            met["entropy"] = f"entropy at commit fell from {before:.3g} to {after:.3g} nats"
        slow, fast = _mean(first["tokens_per_call"]), _mean(last["tokens_per_call"])
        good, worse = _mean(first["accuracy"]), _mean(last["accuracy"])
        if fast > config.tokens_per_call * slow and worse < good - config.accuracy:
            met["sliding"] = (
                f"tokens per call rose from {slow:.3g} to {fast:.3g} while the accuracy of "
                f"rollouts fell from {good:.3f} to {worse:.3f}"
            )
    if now is not None and best is not None and now < best - config.evaluation:
        met["evaluation"] = f"validation accuracy is {now:.3f}, its best was {best:.3f}"
    return met


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
