"""What a run ends with: the base model against the trained one, in summary.json and in words.

`run.frontiers` puts summary.json together:

  base, trained    see `compare_models`
  gains            of the trained model over the base, see `bootstrap.paired_gains`; `rules` has
                   those over the base under other commit rules
  hindsight        the base with the best dial of its frontier for each prompt, see `headroom`
  wall_seconds, denoiser_calls    by stage, and by use
  prompts          number of test prompts behind every accuracy
  steps            RL steps of the trained model
  seed, method, mode, rule, commit, versions
  dial             name of the commit rule's number in the points of the frontiers
  base_rule        commit rule of the base's own frontier; another than `rule` if RL made its head
  price            default price of the head by state, for runs with one
  head_flops       its FLOPs as a share of those of a denoiser call
  scaled           the trained model at multiples of its learned thresholds, if evaluated
  by_difficulty    see `difficulty`: the trained model at its learned threshold, or at the dial
                   nearest to the run's own (`place`), beside the base at its most accurate dial,
                   and the most accurate dial of about as many calls that is the same for all
                   (`fixed`)
  shown            demonstrations that the base was trained on; null for published weights
  scores, train_test_overlap      the task's own metrics by point; what its splits share
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from diffpo_jax.analysis.frontier import (
    Frontier,
    calls_for,
    interpolate,
    mean_over,
    shared_range,
)
from diffpo_jax.config import DIALS

# A summary without one of these cannot be shown.
FIELDS = ("base", "trained", "gains", "prompts", "dial", "mode")

EXTRAPOLATED = "Outside the calls measured for the base: its nearest point is used."

_POINT = ("accuracy", "nfe", "tokens_per_call", "forced")
_LEARNED = (*_POINT, "gamma_p5", "gamma_p50", "gamma_p95")
_PASS = "pass@"  # followed by k; points have these if prompts have several completions
METRIC = "metric/"  # followed by the name of a metric or reward of the user's


def compare_models(
    base: Frontier,
    trained: Frontier,
    learned: Mapping[str, float] | None,
    dial: str = "gamma",
    rules: Mapping[str, Frontier] | None = None,
    base_dial: str | None = None,
) -> dict[str, Any]:
    """Returns the fields `base` and `trained` of summary.json.

    Args:
      base, trained: frontiers over the grid of dials; pass@k is kept if the points have it.
      learned: the trained model at the thresholds that it chooses itself, with the percentiles
        `gamma_p5`, `gamma_p50`, `gamma_p95` in nats; None if no threshold is learned.
      dial: name of the commit rule's number in the points.
      rules: frontiers of the base under other commit rules.
      base_dial: the name in the base's points, if that is another.

    Returns:
      Both frontiers; `trained.learned`; `base.learned_nfe_accuracy`, the base's `accuracy` at the
      calls of the learned point, `extrapolated` if it is that of the frontier's nearest end; and
      `base.rules`, the frontiers of the other rules.

    Raises:
      ValueError: a frontier is empty.
      KeyError: a point lacks a field.
    """
    if not base or not trained:
        raise ValueError("a frontier needs at least one point; evaluation.gammas is empty.")
    at_learned = None
    if learned is not None:
        learned = _select(learned, _LEARNED)
        accuracy, extrapolated = interpolate(base, learned["nfe"])
        at_learned = {"accuracy": accuracy, "extrapolated": extrapolated}
    curves = [
        [_select(point, (name, *_POINT)) for point in curve]
        for curve, name in ((base, base_dial or dial), (trained, dial))
    ]
    others = {
        name: [_select(point, (DIALS[name], *_POINT)) for point in curve]
        for name, curve in (rules or {}).items()
    }
    return {
        "base": {"frontier": curves[0], "learned_nfe_accuracy": at_learned, "rules": others},
        "trained": {"frontier": curves[1], "learned": learned},
    }


def dial_of(summary: Mapping[str, Any], model: str) -> str:
    """The name of the commit rule's number in the points of a model's frontier."""
    if model == "base" and "base_rule" in summary:
        return DIALS[summary["base_rule"]]
    return summary["dial"]


def _select(point: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Returns these fields of a point, and pass@k and metrics if it has them."""
    others = [name for name in point if name.startswith((_PASS, METRIC))]
    return {name: float(point[name]) for name in (*names, *others)}


def metrics_of(summary: Mapping[str, Any]) -> list[str]:
    """The names of the metrics and the reward of the user's in the points of a summary."""
    point = summary["trained"]["frontier"][0]
    return [name.removeprefix(METRIC) for name in point if name.startswith(METRIC)]


def frontier_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the points of both frontiers as rows, each with its `model`.

    The learned point, if any, is the row "trained-learned"; its dial is the median threshold.
    """
    rows = [
        {"model": model} | dict(point)
        for model in ("base", "trained")
        for point in summary[model]["frontier"]
    ]
    learned = summary["trained"]["learned"]
    if learned is not None:
        rows.append(
            {"model": "trained-learned", summary["dial"]: learned["gamma_p50"]} | dict(learned)
        )
    return rows


class Compared(NamedTuple):
    """A point of the trained model against the base at the same calls."""

    dial: float | None  # None at the learned threshold
    base: Mapping[str, float] | None  # the base's point at the same dial, if it has one
    trained: Mapping[str, float]
    base_accuracy: float  # at the calls of the trained model
    extrapolated: bool  # these are outside the base's frontier; its nearest point counts
    gain: Mapping[str, float]  # {"gain", "low", "high"}


def comparison(summary: Mapping[str, Any]) -> list[Compared]:
    """Compares every point of the trained model with the base, the learned one last.

    The points of a head by state are compared with the base under its best rule at their calls.
    """
    base, dial, gains = summary["base"]["frontier"], summary["dial"], summary["gains"]
    if dial == "price":
        points = summary["trained"]["frontier"]
        return [_against_best_rule(summary, place) for place in range(len(points))]
    base_at = {point[dial]: point for point in base if dial in point}
    rows = [
        Compared(p[dial], base_at.get(p[dial]), p, *interpolate(base, p["nfe"]), gain)
        for p, gain in zip(summary["trained"]["frontier"], gains["grid"], strict=True)
    ]
    learned = summary["trained"]["learned"]
    if learned is not None:
        at = summary["base"]["learned_nfe_accuracy"]
        accuracy, extrapolated = at["accuracy"], at["extrapolated"]
        rows.append(Compared(None, None, learned, accuracy, extrapolated, gains["learned"]))
    return rows


def _against_best_rule(summary: Mapping[str, Any], place: int) -> Compared:
    point = summary["trained"]["frontier"][place]
    rule, accuracy, gain = best_rule(summary, place)
    extrapolated = interpolate(base_curves(summary)[rule], point["nfe"])[1]
    return Compared(point["price"], None, point, accuracy, extrapolated, gain)


def in_use(summary: Mapping[str, Any]) -> Compared | None:
    """The comparison at the learned threshold or the default price; None without either."""
    if summary["trained"]["learned"] is not None:
        return comparison(summary)[-1]
    return comparison(summary)[default_place(summary)] if summary["dial"] == "price" else None


def best_of_base(summary: Mapping[str, Any]) -> tuple[float, float]:
    """The base's best accuracy under any rule that was measured, and in how few calls."""
    curves = base_curves(summary).values()
    best = max(point["accuracy"] for curve in curves for point in curve)
    return best, _fewest_calls(curves, best)


def final_table(summary: Mapping[str, Any]) -> str:
    """Returns the base against the trained model as plain text, with sentences on the result.

    Accuracies are in percent, differences in percentage points, calls per sequence.
    """
    dial = summary["dial"]
    unit = "(nats)" if dial == "gamma" else ""
    lines = [
        f"{dial:>7.7}    base model        trained model     base at the   gain at equal calls",
        f"{unit:>7}    solved   calls    solved   calls    same calls    [95 % interval]",
    ]
    rows = comparison(summary)
    for row in rows:
        name = f"{'learned':<7}" if row.dial is None else f"{row.dial:7g}"
        mark = "*" if row.extrapolated else " "
        value, low, high = (format_points(row.gain[name]) for name in ("gain", "low", "high"))
        lines.append(
            f"{name}  {_solved(row.base)}  {_solved(row.trained)}    {100 * row.base_accuracy:6.1f}"
            f" %{mark}   {value:>6} [{low} {high}]"
        )
    if any(row.extrapolated for row in rows):
        lines.append(f"* {EXTRAPOLATED}")
    return "\n".join([*lines, "", *sentences(summary)]) + "\n"


def _solved(point: Mapping[str, float] | None) -> str:
    if point is None:
        return f"{'-':>8} {'-':>7}"
    return f"{format_percent(point['accuracy']):>8} {point['nfe']:7.2f}"


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Describes the result: at the learned threshold, on average, and what to be cautious about."""
    base, trained = summary["base"]["frontier"], summary["trained"]["frontier"]
    learned, gains = summary["trained"]["learned"], summary["gains"]
    result = []
    if learned is not None:
        at_learned = summary["base"]["learned_nfe_accuracy"]
        calls = f"{learned['nfe']:.1f} calls"
        place = "at its nearest measured point" if at_learned["extrapolated"] else f"at {calls}"
        result.append(
            f"At its learned threshold (median {learned['gamma_p50']:.3g} nats) the trained model "
            f"solves {format_percent(learned['accuracy'])} in {calls}; the base solves "
            f"{format_percent(at_learned['accuracy'])} {place}: {_verdict(gains['learned'])}"
        )
        result += _rule_sentences(summary, learned, at_learned["accuracy"])
    result += _price_sentences(summary)
    shared = shared_range(base, trained)
    if shared is None:
        result.append(
            "Over the grid of thresholds, the two models have no range of calls in common."
        )
    else:
        ours, theirs = (format_percent(mean_over(f, *shared)) for f in (trained, base))
        result.append(
            f"On average from {shared[0]:.1f} to {shared[1]:.1f} calls, at the thresholds of the "
            f"grid, the trained model solves {ours} and the base {theirs}: "
            f"{_verdict(gains['mean'])}"
        )
    return (
        result + _metric_sentences(summary) + _shown_sentences(summary) + _pass_sentences(summary)
    )


def _metric_sentences(summary: Mapping[str, Any]) -> list[str]:
    """The means of the user's metrics, at the point in use and for the base at its best."""
    point, place = _point_in_use(summary)
    best = max(summary["base"]["frontier"], key=lambda point: point["accuracy"])
    return [
        f"{name}: {point[METRIC + name]:.3g} on average {place}; the base has "
        f"{best[METRIC + name]:.3g} where it solves most."
        for name in metrics_of(summary)
    ]


def _point_in_use(summary: Mapping[str, Any]) -> tuple[Mapping[str, float], str]:
    """The trained model's point that sentences describe, and where it is, in words."""
    learned, dial = summary["trained"]["learned"], summary["dial"]
    if learned is not None:
        return learned, "at the learned threshold"
    place = default_place(summary) if dial == "price" else 0
    point = summary["trained"]["frontier"][place]
    return point, f"at {dial} {point[dial]:g}"


def _shown_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Says what the base was trained on, if on less than what RL and the test have."""
    shown = summary.get("shown") or {}
    count, difficulty = shown.get("count"), shown.get("difficulty")
    if not (count or difficulty):
        return []
    result = f"The base was shown answers to {f'{count:,} ' if count else ''}prompts"
    if difficulty:
        low, high = (f"{x:g}" for x in difficulty)
        result += f" with {low} to {high} {shown['unit']}"
    result += " alone"
    levels = (summary.get("by_difficulty") or {}).get("levels")
    if difficulty and levels:
        result += f"; the test has {levels[0]['difficulty']:g} to {levels[-1]['difficulty']:g}"
    return [result + "."]


def base_curves(summary: Mapping[str, Any]) -> dict[str, Frontier]:
    """The base's frontiers by commit rule, its own first."""
    own = summary.get("base_rule", summary["rule"])
    return {own: summary["base"]["frontier"]} | summary["base"].get("rules", {})


def best_rule(summary: Mapping[str, Any], place: int) -> tuple[str, float, Mapping[str, float]]:
    """The base's commit rule that solves most at the calls of a point of the trained frontier.

    Args:
      place: of the point in the frontier.

    Returns:
      The rule, the base's accuracy under it at these calls, and the trained model's gain over it.
      A rule that was not measured at these calls counts with its nearest point only if none was.
    """
    calls = summary["trained"]["frontier"][place]["nfe"]
    curves, gains = base_curves(summary), summary["gains"]
    own = next(iter(curves))
    grids = {own: gains["grid"]} | {name: x["grid"] for name, x in gains.get("rules", {}).items()}
    at_calls = {name: interpolate(points, calls) for name, points in curves.items()}
    rule = max(at_calls, key=lambda name: (not at_calls[name][1], at_calls[name][0]))
    return rule, at_calls[rule][0], grids[rule][place]


def default_place(summary: Mapping[str, Any]) -> int:
    """The place in the trained frontier of the point nearest to the head's default price."""
    return nearest([point["price"] for point in summary["trained"]["frontier"]], summary["price"])


def nearest(prices: Sequence[float], price: float) -> int:
    """The place of the nearest of these prices, by ratio."""
    return min(range(len(prices)), key=lambda i: abs(math.log(prices[i] / price)))


def _price_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Compares the head by state, at its default price, with the base's best rule there."""
    if summary["dial"] != "price":
        return []
    points, place = summary["trained"]["frontier"], default_place(summary)
    point, (rule, accuracy, gain) = points[place], best_rule(summary, place)
    result = [
        f"At the price {point['price']:g} the trained model solves "
        f"{format_percent(point['accuracy'])} in {point['nfe']:.2f} calls; the base solves "
        f"{format_percent(accuracy)} at these calls under its best rule there, {rule}: "
        f"{_verdict(gain)}"
    ]
    curves = base_curves(summary).values()
    needed = _fewest_calls(curves, point["accuracy"])
    if not point["accuracy"]:
        pass  # there is nothing that the base would need calls for
    elif needed:
        factor = needed / point["nfe"]
        result.append(f"For as much the base needs {needed:.2f} calls, {factor:.2f} times as many.")
    else:
        result.append("The base does not solve as many in any number of calls measured.")
    best, needed = best_of_base(summary)
    if best:
        ours = calls_for(points, best)
        as_many = (
            "does not solve as many at any price measured."
            if ours is None
            else f"solves as many in {ours:.2f}, 1/{needed / ours:.1f} of the calls."
            if ours < needed
            else f"needs {ours:.2f} for as many."
        )
        result.append(
            f"At its best the base solves {format_percent(best)}, in {needed:.2f} calls; the "
            f"trained model {as_many}"
        )
    if share := summary.get("head_flops"):
        result.append(f"The head adds {100 * share:.2g} % to the FLOPs of a call.")
    return result


def _fewest_calls(curves: Iterable[Frontier], accuracy: float) -> float | None:
    """The fewest calls at which any of the frontiers reaches an accuracy; None if none does."""
    found = [calls_for(curve, accuracy) for curve in curves]
    return min((calls for calls in found if calls is not None), default=None)


def _rule_sentences(
    summary: Mapping[str, Any], learned: Mapping[str, float], own: float
) -> list[str]:
    """Compares the learned point with the base under its best other rule there, if that is better.

    Args:
      own: the base's accuracy at the same calls under the run's own rule.
    """
    at_calls = {}
    for name, points in summary["base"].get("rules", {}).items():
        accuracy, extrapolated = interpolate(points, learned["nfe"])
        if not extrapolated:  # the rule was measured at these calls
            at_calls[name] = accuracy
    best = max(at_calls, key=at_calls.get, default=None)
    if best is None or at_calls[best] <= own:
        return []
    gain = summary["gains"]["rules"][best]["learned"]
    return [
        f"Under the rule {best} the base solves {format_percent(at_calls[best])} there, more than "
        f"under {summary['rule']}. Against it the trained model has {_verdict(gain)}"
    ]


def _verdict(gain: Mapping[str, float]) -> str:
    """Returns a difference in points with its interval, and says if it is a loss or unclear."""
    value, low, high = (format_points(gain[name]) for name in ("gain", "low", "high"))
    points = f"{value} points (95 % interval {low} to {high})"
    if gain["low"] <= 0 <= gain["high"]:
        return f"{points}, too small a difference to tell the two apart."
    return f"{points}." if gain["low"] > 0 else f"{points}; the trained model is worse."


def _pass_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Reports pass@k, if measured, at the learned threshold or else at the first dial."""
    learned, trained = summary["trained"]["learned"], summary["trained"]["frontier"]
    point, place = trained[0], f"At {summary['dial']} {trained[0][summary['dial']]:g}"
    if learned is not None:
        point, place = learned, "At its learned threshold"
    rates = [
        f"{name} {format_percent(value)}" for name, value in point.items() if name.startswith(_PASS)
    ]
    return [f"{place} the trained model has {', '.join(rates)}."] if rates else []


def format_percent(share: float) -> str:
    """Formats a share in percent: "93.1 %"."""
    return f"{100 * share:.1f} %"


def format_points(share: float) -> str:
    """Formats a difference of shares in percentage points, with its sign: "+8.1"."""
    # Adding 0.0 after rounding avoids "-0.0", which looks like a loss.
    return f"{round(100 * share, 1) + 0.0:+.1f}"
