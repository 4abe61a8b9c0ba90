"""`summary.json` and the table that a run ends with: the base model against the trained one."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffpo_jax.analysis.frontier import Frontier, interpolate, mean_over, shared_range

UNDER_TRAINED = 0.95  # a base that solves less at its best has plain training left to gain

_POINT = ("accuracy", "nfe", "tokens_per_call", "forced")
_LEARNED = (*_POINT, "gamma_p5", "gamma_p50", "gamma_p95")
_PASS = "pass@"  # and k: there where prompts have several completions


def make_summary(
    *,
    base_frontier: Frontier,
    trained_frontier: Frontier,
    learned: Mapping[str, float] | None,
    gains: Mapping[str, Any],
    wall_seconds: Mapping[str, float],
    denoiser_calls: Mapping[str, int],
    prompts: int,
    seed: int,
    method: str,
    mode: str,
    rule: str = "entropy_bounded",
    dial: str = "gamma",
    commit: str,
    versions: Mapping[str, str],
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `summary.json`, ready for `json.dumps`.

    Args:
      base_frontier, trained_frontier: points over the grid of thresholds (see `frontier`); pass@k
        is kept where they have it.
      learned: the trained model at the thresholds it chooses itself: `accuracy`, `nfe`,
        `tokens_per_call`, `forced` and the percentiles `gamma_p5`, `gamma_p50`, `gamma_p95` in
        nats.  None in mode "model", where there is no such thing, and only there.
      gains: the trained model's over the base, `statistics.paired_gains`.
      wall_seconds: seconds by stage.
      denoiser_calls: number of denoiser calls by use.
      prompts: test prompts behind every accuracy.
      seed, method, mode: of the configuration.
      rule, dial: the commit rule, and what its number is called in the points of the frontiers.
      commit: of the code.
      versions: of the packages, by name.
      extra: more fields, beside those above.

    Returns:
      `base.frontier`, `base.learned_nfe_accuracy` (`accuracy`: the base's, linear in calls, at
      the calls of the learned point; `extrapolated`: that is outside the base's frontier and
      the accuracy is that of its nearest end), `trained.frontier`, `trained.learned`, and the
      arguments from `gains` on under their own names.

    Raises:
      ValueError: a frontier is empty, `learned` does not fit `mode`, or `extra` would replace
        a field.
      KeyError: a point lacks a field.
    """
    if not base_frontier or not trained_frontier:
        raise ValueError("a frontier needs at least one point; evaluation.gammas is empty.")
    if (learned is None) != (mode == "model"):
        raise ValueError(f"mode {mode!r} with learned={learned!r}: only mode 'model' has none.")
    at_learned = None
    if learned is not None:
        learned = _point(learned, _LEARNED)
        accuracy, extrapolated = interpolate(base_frontier, learned["nfe"])
        at_learned = {"accuracy": accuracy, "extrapolated": extrapolated}
    summary = {
        "base": {"frontier": _points(base_frontier, dial), "learned_nfe_accuracy": at_learned},
        "trained": {"frontier": _points(trained_frontier, dial), "learned": learned},
        "gains": dict(gains),
        "wall_seconds": {name: float(seconds) for name, seconds in wall_seconds.items()},
        "denoiser_calls": {name: int(calls) for name, calls in denoiser_calls.items()},
        "prompts": int(prompts),
        "seed": int(seed),
        "method": method,
        "mode": mode,
        "rule": rule,
        "dial": dial,
        "commit": commit,
        "versions": dict(versions),
    }
    extra = dict(extra or {})
    taken = sorted(summary.keys() & extra.keys())
    if taken:
        raise ValueError(f"extra would replace these fields of the summary: {', '.join(taken)}.")
    return summary | extra


def final_table(summary: Mapping[str, Any]) -> str:
    """Base against trained as plain text, ending in sentences that say how it came out.

    Accuracies are in percent, differences in percentage points, calls are denoiser calls a
    sequence.  Ends in a newline.
    """
    dial = summary["dial"]
    unit = "(nats)" if dial == "gamma" else ""
    lines = [
        f"{dial:>7.7}    base model        trained model     base at the   gain at equal calls",
        f"{unit:>7}    solved   calls    solved   calls    same calls    [95 % interval]",
    ]
    compared = comparison(summary)
    for one in compared:
        name = f"{'learned':<7}" if one.dial is None else f"{one.dial:7g}"
        same = one.base
        left = f"{_percent(same):>8} {same['nfe']:7.2f}" if same else f"{'-':>8} {'-':>7}"
        lines.append(f"{name}  {left}  {_against(one)}")
    if any(one.extrapolated for one in compared):
        lines.append(f"* {EXTRAPOLATED}")
    return "\n".join([*lines, "", *sentences(summary)]) + "\n"


class Compared(NamedTuple):
    """A point of the trained model against the base at the same calls.

    Attributes:
      dial: None at the learned threshold.
      base: the base's point at the same dial, None where there is none.
      trained: the point.
      theirs: the base's accuracy at the trained model's calls; `extrapolated`: those are outside
        the base's frontier and it is that of its nearest point.
      gain: {"gain", "low", "high"}.
    """

    dial: float | None
    base: Mapping[str, float] | None
    trained: Mapping[str, float]
    theirs: float
    extrapolated: bool
    gain: Mapping[str, float]


EXTRAPOLATED = "outside the calls measured for the base: its nearest point is taken."


def comparison(summary: Mapping[str, Any]) -> list[Compared]:
    """Every point of the trained model, the learned one last."""
    base, dial, gains = summary["base"]["frontier"], summary["dial"], summary["gains"]
    base_at = {point[dial]: point for point in base}
    rows = [
        Compared(p[dial], base_at.get(p[dial]), p, *interpolate(base, p["nfe"]), gain)
        for p, gain in zip(summary["trained"]["frontier"], gains["grid"], strict=True)
    ]
    learned = summary["trained"]["learned"]
    if learned is not None:
        at = summary["base"]["learned_nfe_accuracy"]
        own = (at["accuracy"], at["extrapolated"], gains["learned"])
        rows.append(Compared(None, None, learned, *own))
    return rows


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """How it came out, in words: at the learned threshold, on average, and with what caution."""
    base, trained = summary["base"]["frontier"], summary["trained"]["frontier"]
    learned, gains = summary["trained"]["learned"], summary["gains"]
    result = []
    if learned is not None:
        at_learned = summary["base"]["learned_nfe_accuracy"]
        theirs, calls = at_learned["accuracy"], f"{learned['nfe']:.1f} calls"
        place = "at its nearest measured point" if at_learned["extrapolated"] else f"at {calls}"
        result.append(
            f"At its learned threshold (median {learned['gamma_p50']:.3g} nats) the trained model "
            f"solves {_percent(learned)} in {calls}; the base solves {100 * theirs:.1f} % {place}: "
            f"{_verdict(gains['learned'])}"
        )
    shared = shared_range(base, trained)
    if shared is None:
        result.append(
            "Over the grid of thresholds the two models have no range of calls in common."
        )
    else:
        lo, hi = shared
        ours, theirs = (mean_over(f, lo, hi) for f in (trained, base))
        result.append(
            f"On average from {lo:.1f} to {hi:.1f} calls, with thresholds of the grid, the trained "
            f"model solves {100 * ours:.1f} % and the base {100 * theirs:.1f} %: "
            f"{_verdict(gains['mean'])}"
        )
    best = max(point["accuracy"] for point in base)
    # With the denoiser frozen there was no further training of it to gain from.
    if best < UNDER_TRAINED and summary["mode"] != "sampler":
        result.append(
            f"The base solves {100 * best:.1f} % at its best: it is under-trained, so part of any "
            "gain is further training and not a better use of the calls."
        )
    return result + _pass_sentences(summary)


def _verdict(gain: Mapping[str, float]) -> str:
    """A difference in points, its interval, and in words which way it points."""
    value, low, high = (points_text(gain[name]) for name in ("gain", "low", "high"))
    points = f"{value} points (95 % interval {low} to {high})"
    if gain["low"] <= 0 <= gain["high"]:
        return f"{points}, too little to tell them apart."
    return f"{points}." if gain["low"] > 0 else f"{points}; the trained model is worse."


def _against(one: Compared) -> str:
    """The right-hand columns of a row: the trained model, and the base at the same calls."""
    mark = "*" if one.extrapolated else " "
    value, low, high = (points_text(one.gain[name]) for name in ("gain", "low", "high"))
    return (
        f"{_percent(one.trained):>8} {one.trained['nfe']:7.2f}    {100 * one.theirs:6.1f} %{mark}  "
        f" {value:>6} [{low} {high}]"
    )


def _percent(point: Mapping[str, float]) -> str:
    return f"{100 * point['accuracy']:.1f} %"


def points_text(share: float) -> str:
    """A difference of shares in percentage points, signed."""
    # Adding 0.0 after rounding keeps "-0.0" from suggesting a loss.
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _points(frontier: Frontier, dial: str) -> list[dict[str, float]]:
    return [_point(point, (dial, *_POINT)) for point in frontier]


def _point(point: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """These fields of a point, and pass@k where it has that."""
    several = [name for name in point if name.startswith(_PASS)]
    return {name: float(point[name]) for name in (*names, *several)}


def _pass_sentences(summary: Mapping[str, Any]) -> list[str]:
    """pass@k where prompts have several completions, at the learned threshold or the first dial."""
    learned, trained = summary["trained"]["learned"], summary["trained"]["frontier"]
    point, place = trained[0], f"At {summary['dial']} {trained[0][summary['dial']]:g}"
    if learned is not None:
        point, place = learned, "At its learned threshold"
    rates = [
        f"{name} {100 * value:.1f} %" for name, value in point.items() if name.startswith(_PASS)
    ]
    return [f"{place} the trained model has {', '.join(rates)}."] if rates else []
