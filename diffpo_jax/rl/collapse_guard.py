"""A watch for collapse: named conditions on what a run logs, and what is done where one is met.

Parallel decoding inside RL fails in few ways, and each shows before the reward does:

  entropy      the denoiser has become sure of everything; nothing is explored any more
  sliding      more tokens a call at the price of accuracy: the commit rule no longer holds back
  evaluation   held-out accuracy has left its best behind, whatever the training reward says

Host side, plain numbers.  The state is part of a checkpoint, so that a resumed run looks on with
the same eyes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from diffpo_jax.config import GuardConfig

_WATCHED = ("entropy", "tokens_per_call", "accuracy")


class Guard(NamedTuple):
    """What has been seen so far.

    Attributes:
      first, last: by metric, the values of the first and of the latest `window` steps.
      best: the best validation accuracy; None before the first.
      met: the conditions met so far; each speaks once.
      rate: factor on the learning rates.
    """

    first: dict[str, list[float]]
    last: dict[str, list[float]]
    best: float | None = None
    met: tuple[str, ...] = ()
    rate: float = 1.0


def start() -> Guard:
    """A guard that has seen nothing."""
    return Guard({name: [] for name in _WATCHED}, {name: [] for name in _WATCHED})


def to_meta(guard: Guard) -> dict[str, Any]:
    """As JSON-like values, for a checkpoint."""
    return guard._asdict() | {"met": list(guard.met)}


def from_meta(values: Mapping[str, Any] | None) -> Guard:
    """The inverse of `to_meta`; a new guard where there is nothing."""
    return Guard(**{**values, "met": tuple(values["met"])}) if values else start()


def look(
    guard: Guard, values: Mapping[str, float], config: GuardConfig
) -> tuple[Guard, dict[str, str]]:
    """Takes in the metrics of a step.

    Args:
      values: the step's metrics; `eval/accuracy` where there was an evaluation.

    Returns:
      The guard, and the conditions that are newly met: name -> what was seen, in words.
    """
    if config.action == "off":
        return guard, {}
    first, last = {}, {}
    for name in _WATCHED:
        seen = [values[name]] if name in values else []
        first[name] = (guard.first[name] + seen)[: config.window]
        last[name] = (guard.last[name] + seen)[-config.window :]
    now = values.get("eval/accuracy")
    best = guard.best if now is None else max(now, guard.best if guard.best is not None else now)
    found = _conditions(first, last, now, best, config)
    new = {name: text for name, text in found.items() if name not in guard.met}
    rate = guard.rate * config.lower ** len(new) if config.action == "lower" else guard.rate
    return Guard(first, last, best, (*guard.met, *new), rate), new


def _conditions(
    first: dict[str, list[float]],
    last: dict[str, list[float]],
    now: float | None,
    best: float | None,
    config: GuardConfig,
) -> dict[str, str]:
    found = {}
    if len(last["entropy"]) == config.window:
        then, is_ = _mean(first["entropy"]), _mean(last["entropy"])
        if is_ < config.entropy * then:
            found["entropy"] = f"entropy at commit fell from {then:.3g} to {is_:.3g} nats"
        fast, faster = _mean(first["tokens_per_call"]), _mean(last["tokens_per_call"])
        good, worse = _mean(first["accuracy"]), _mean(last["accuracy"])
        if faster > config.tokens_per_call * fast and worse < good - config.accuracy:
            found["sliding"] = (
                f"tokens per call rose from {fast:.3g} to {faster:.3g} while the accuracy of "
                f"rollouts fell from {good:.3f} to {worse:.3f}"
            )
    if now is not None and best is not None and now < best - config.evaluation:
        found["evaluation"] = f"validation accuracy is {now:.3f}, its best was {best:.3f}"
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
