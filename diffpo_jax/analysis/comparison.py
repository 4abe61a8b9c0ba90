"""Runs side by side: arms of a study over their seeds, at equal calls, on the same prompts.

Shares and calls as in `frontier`; differences in percentage points only where text is made.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffpo_jax.analysis import bootstrap, frontier
from diffpo_jax.analysis.bootstrap import Outcomes

RESAMPLES = 2_000
BASE = "base model"  # what the models before RL are called beside the arms


class Finished(NamedTuple):
    """A run that has ended.

    Attributes:
      summary: its report/summary.json.
      metrics: the lines of its metrics.jsonl.
      outcomes: its report/outcomes.npz.
    """

    task: str
    arm: str
    seed: int
    id: str
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    outcomes: Mapping[str, Outcomes]


class Spread(NamedTuple):
    """A quantity over seeds: mean, standard deviation (NaN of one seed), and its values."""

    mean: float
    deviation: float
    values: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Spread(float(np.mean(values)), deviation, tuple(values))


def by_arm(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Runs of one task by their arm, in the order they come, by seed."""
    found: dict[str, list[Finished]] = {}
    for run in runs:
        found.setdefault(run.arm, []).append(run)
    return {arm: sorted(rows, key=lambda r: r.seed) for arm, rows in found.items()}


def bases(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Runs of one task whose base models differ, one for each, by label; each rule its own."""
    found: dict[str, dict[Any, Finished]] = {}
    for run in runs:
        rule = run.summary["rule"]
        label = BASE if rule == "entropy_bounded" else f"{BASE}, {rule}"
        points = tuple((p["accuracy"], p["nfe"]) for p in run.summary["base"]["frontier"])
        found.setdefault(label, {}).setdefault((run.seed, points), run)
    return {label: list(of_label.values()) for label, of_label in found.items()}


def at_calls(run: Finished, which: str, calls: float) -> float:
    """Accuracy of a run's frontier, "base" or "trained", at `calls`; NaN outside what it covers."""
    accuracy, outside = frontier.interpolate(run.summary[which]["frontier"], calls)
    return math.nan if outside else accuracy


def chosen(run: Finished) -> Mapping[str, Any]:
    """The point that a run is for: the learned thresholds; without, the best of its frontier.

    The best is taken on the prompts it is told of, so it flatters runs that learn no threshold;
    the comparison at equal calls does not.
    """
    trained = run.summary["trained"]
    if trained["learned"] is not None:
        return trained["learned"]
    return max(trained["frontier"], key=lambda p: (p["accuracy"], -p["nfe"]))


def gain(run: Finished) -> float:
    """Accuracy of `chosen` minus the base's at those calls."""
    point = chosen(run)
    return (
        point["accuracy"] - frontier.interpolate(run.summary["base"]["frontier"], point["nfe"])[0]
    )


def mean_gain(run: Finished) -> float:
    """The trained frontier minus the base's, the mean over the calls that both cover; else NaN."""
    base, trained = (run.summary[name]["frontier"] for name in ("base", "trained"))
    shared = frontier.shared_range(base, trained)
    if shared is None:
        return math.nan
    return frontier.mean_over(trained, *shared) - frontier.mean_over(base, *shared)


def total_calls(run: Finished) -> float:
    """Denoiser calls of rollouts and updates, as `summary.json` counts them."""
    calls = run.summary["denoiser_calls"]
    return calls["rollout"] + calls["update"]


def paired(
    ours: Sequence[Finished],
    theirs: Sequence[Finished],
    calls: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """What one arm solves more than another at equal calls, by seeds that both have.

    The 95 % intervals are a bootstrap over prompts: a resample takes the same prompts of all seeds
    and of both arms and moves calls with accuracies.  How another seed would train is not in them;
    `deviation`, over seeds, says something of that.

    Args:
      calls: where the frontiers are compared.

    Returns:
      By "4" for 4 calls, "mean" over the calls that all frontiers cover, and "learned", ours at
      its learned thresholds against their frontier at those calls (the nearest end, outside it):
      {"gain", "low", "high", "deviation", "seeds"}.  Calls that are not covered are left out, and
      "learned" where ours learns no threshold.

    Raises:
      ValueError: the runs have no seed in common, or not the same number of prompts.
    """
    pairs = _pairs(ours, theirs)
    sides = [[_points(run) for run in side] for side in zip(*pairs)]
    prompts = {p.correct.size for side in sides for points in side for p in points}
    if len(prompts) != 1:
        raise ValueError(f"runs of different numbers of prompts: {sorted(prompts)}")
    rows = prompts.pop()
    even = np.full(rows, 1 / rows)
    curves = [[_curve(points, even) for points in side] for side in sides]
    shared = _shared(curve for side in curves for curve in side)
    if shared is None:
        return {}
    where = [c for c in calls if shared[0] <= c <= shared[1]]

    learned = [run.outcomes.get("learned") for run, _ in pairs]
    own = [x for x in learned if x is not None] if None not in learned else []

    def differences(weights: np.ndarray) -> np.ndarray:
        """[seeds, calls and then the mean and the learned point]."""
        now = [[_curve(points, weights) for points in side] for side in sides]
        found = [_differences(a, b, where, shared) for a, b in zip(*now)]
        for row, point, theirs in zip(found, own, now[1]):
            at = _curve([point], weights)[0]
            row.append(at["accuracy"] - frontier.interpolate(theirs, at["nfe"])[0])
        return np.array(found)

    measured = differences(even)
    draws = bootstrap.resampled(sides[0][0][0], resamples, seed)
    means = [differences(w).mean(axis=0) for w in draws]
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    found = {}
    names = [*(f"{c:g}" for c in where), "mean", *(["learned"] if own else [])]
    for i, name in enumerate(names):
        over_seeds = spread(measured[:, i].tolist())
        found[name] = {
            "gain": over_seeds.mean,
            "low": float(low[i]),
            "high": float(high[i]),
            "deviation": over_seeds.deviation,
            "seeds": len(pairs),
        }
    return found


def curve_by_step(
    runs: Sequence[Finished], name: str
) -> tuple[list[int], list[float], list[Spread]]:
    """A metric of RL over the runs of an arm, at the steps at which all of them have it.

    Returns:
      Steps; denoiser calls spent until then, their mean over the runs; the metric.
    """
    series = []
    for run in runs:
        lines = [line for line in run.metrics if line["stage"] == "rl" and name in line]
        series.append({line["step"]: line for line in lines})
    steps = sorted(set.intersection(*map(set, series))) if series else []
    spent = [np.mean([_spent(s[step]) for s in series]).item() for step in steps]
    return steps, spent, [spread([s[step][name] for s in series]) for step in steps]


def _spent(line: Mapping[str, Any]) -> float:
    # Step 0, the base model's validation, has cost none.
    return line.get("calls/rollout", 0.0) + line.get("calls/update", 0.0)


def _pairs(ours: Sequence[Finished], theirs: Sequence[Finished]) -> list[tuple[Finished, Finished]]:
    others = {run.seed: run for run in theirs}
    pairs = [(run, others[run.seed]) for run in ours if run.seed in others]
    if not pairs:
        raise ValueError("the runs have no seed in common")
    return pairs


def _points(run: Finished) -> list[Outcomes]:
    return [o for name, o in run.outcomes.items() if name.startswith("trained/")]


def _curve(points: Sequence[Outcomes], weights: np.ndarray) -> list[dict[str, float]]:
    return [{"accuracy": float(p.correct @ weights), "nfe": float(p.nfe @ weights)} for p in points]


def _shared(curves: Any) -> tuple[float, float] | None:
    ends = [(min(p["nfe"] for p in c), max(p["nfe"] for p in c)) for c in curves]
    low, high = max(e[0] for e in ends), min(e[1] for e in ends)
    return (low, high) if low < high else None


def _differences(
    ours: frontier.Frontier,
    theirs: frontier.Frontier,
    calls: Sequence[float],
    shared: tuple[float, float],
) -> list[float]:
    def at(curve: frontier.Frontier, call: float) -> float:
        return frontier.interpolate(curve, call)[0]

    mean = frontier.mean_over(ours, *shared) - frontier.mean_over(theirs, *shared)
    return [*(at(ours, c) - at(theirs, c) for c in calls), mean]


def best_of_all(runs: Sequence[Finished]) -> float:
    """The highest accuracy of any point, which AUP weighs by."""
    points = itertools.chain.from_iterable(
        run.summary[name]["frontier"] for run in runs for name in ("base", "trained")
    )
    return max(p["accuracy"] for p in points)
