"""Compares finished runs over their seeds: arms of a study, at equal calls, on the same prompts.

Shares and calls are as in `frontier`; only the code that makes text converts differences to
percentage points.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diffpo_jax.analysis import bootstrap, frontier
from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.analysis.groups import Group
from diffpo_jax.analysis.runs import Run
from diffpo_jax.analysis.summary import dial_of

BASE = "base model"  # label of the models before RL, next to the arms' labels


class Spread(NamedTuple):
    """A quantity over seeds: mean, standard deviation (NaN for one seed), and its values."""

    mean: float
    deviation: float
    values: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """Returns the mean and the sample standard deviation."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Spread(float(np.mean(values)), deviation, tuple(values))


def base_groups(runs: Sequence[Run]) -> list[Group]:
    """Returns runs with different base models, one run for each, grouped by their commit rule."""
    by_label: dict[str, dict[Any, Run]] = {}
    for run in runs:
        rule = run.summary.get("base_rule", run.summary["rule"])
        label = BASE if rule == "entropy_bounded" else f"{BASE}, {rule}"
        points = tuple((p["accuracy"], p["nfe"]) for p in run.summary["base"]["frontier"])
        by_label.setdefault(label, {}).setdefault((run.seed, points), run)
    items = enumerate(by_label.items())
    return [Group(label, list(members.values()), place) for place, (label, members) in items]


def mean_frontier(runs: Sequence[Run], model: str) -> list[dict[str, float]]:
    """Averages the "base" or "trained" frontiers of runs at each dial, sorted by calls.

    Points are {"dial", "nfe", "accuracy", "runs"}; `runs` counts the runs that have the dial.
    """
    by_dial: dict[float, list[Mapping[str, float]]] = {}
    for run in runs:
        for point in run.summary[model]["frontier"]:
            by_dial.setdefault(point[dial_of(run.summary, model)], []).append(point)
    rows = [
        {"dial": dial}
        | {name: spread([p[name] for p in points]).mean for name in ("nfe", "accuracy")}
        | {"runs": len(points)}
        for dial, points in by_dial.items()
    ]
    return sorted(rows, key=lambda p: p["nfe"])


def at_calls(run: Run, model: str, calls: float) -> float:
    """Returns the accuracy of a run's frontier at `calls`; NaN outside the calls it covers."""
    accuracy, outside = frontier.interpolate(run.summary[model]["frontier"], calls)
    return math.nan if outside else accuracy


def reported_point(run: Run) -> Mapping[str, Any]:
    """Returns the learned point of a run, or the best point of its frontier if it has none.

    The best point is chosen on the prompts that it is measured on, which flatters runs that learn
    no threshold; the comparison at equal calls does not.
    """
    trained = run.summary["trained"]
    if trained["learned"] is not None:
        return trained["learned"]
    return max(trained["frontier"], key=lambda p: (p["accuracy"], -p["nfe"]))


def gain(run: Run) -> float:
    """Returns the accuracy of `reported_point` minus the base's at the same calls."""
    point, base = reported_point(run), run.summary["base"]["frontier"]
    return point["accuracy"] - _accuracy(base, point["nfe"])


def mean_gain(run: Run) -> float:
    """Returns the mean of trained minus base over the calls that both frontiers cover, or NaN."""
    base, trained = (run.summary[name]["frontier"] for name in ("base", "trained"))
    shared = frontier.shared_range(base, trained)
    if shared is None:
        return math.nan
    return frontier.mean_over(trained, *shared) - frontier.mean_over(base, *shared)


def paired_differences(
    ours: Sequence[Run],
    theirs: Sequence[Run],
    calls: Sequence[float],
    resamples: int = 2_000,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Returns by how much one arm beats another at equal calls, over the seeds that both have.

    The 95 % intervals are bootstrap intervals over prompts: a resample uses the same prompts for
    all seeds and both arms, and moves calls together with accuracies. They do not include the
    spread between training seeds; `deviation`, over the seeds, gives an idea of it.

    Returns:
      {"gain", "low", "high", "deviation", "seeds"} by name: "4" at 4 calls, if all frontiers cover
      them; "mean" over all calls that they cover; "learned", our learned point against their
      frontier at the same calls (outside it, its nearest end), if our arm learns thresholds.

    Raises:
      ValueError: the runs have no seed in common, or different numbers of prompts.
    """
    # 1. Pair the runs by seed, and find the calls at which all their frontiers can be compared.
    others = {run.seed: run for run in theirs}
    pairs = [(run, others[run.seed]) for run in ours if run.seed in others]
    if not pairs:
        raise ValueError("the runs have no seed in common")
    points = [[_trained_points(run) for run in pair] for pair in pairs]
    prompts = {p.correct.size for pair in points for side in pair for p in side}
    if len(prompts) != 1:
        raise ValueError(f"runs of different numbers of prompts: {sorted(prompts)}")
    count = prompts.pop()
    even = np.full(count, 1 / count)
    shared = frontier.shared_range(
        *(bootstrap.weighted_points(side, even) for pair in points for side in pair)
    )
    if shared is None:
        return {}
    covered = [c for c in calls if shared[0] <= c <= shared[1]]
    learned = [run.outcomes.get("learned") for run, _ in pairs]
    learns = None not in learned

    # 2. Compute the differences of each pair from weights of the prompts.
    def differences(weights: Float[np.ndarray, " N"]) -> Float[np.ndarray, "seeds columns"]:
        table = []
        for pair, own in zip(points, learned):
            mine, other = (bootstrap.weighted_points(side, weights) for side in pair)
            row = [_accuracy(mine, c) - _accuracy(other, c) for c in covered]
            row.append(frontier.mean_over(mine, *shared) - frontier.mean_over(other, *shared))
            if learns:
                (point,) = bootstrap.weighted_points([own], weights)
                row.append(point["accuracy"] - _accuracy(other, point["nfe"]))
            table.append(row)
        return np.array(table)

    # 3. Average over the seeds, with intervals.
    low, high = bootstrap.intervals(
        lambda weights: differences(weights).mean(axis=0), points[0][0][0], resamples, seed
    )
    names = [*(f"{c:g}" for c in covered), "mean", *(["learned"] if learns else [])]
    result = {}
    for name, column, lo, hi in zip(names, differences(even).T, low.tolist(), high.tolist()):
        mean, deviation, _ = spread(column.tolist())
        numbers = {"gain": mean, "low": lo, "high": hi, "deviation": deviation}
        result[name] = numbers | {"seeds": len(pairs)}
    return result


def _trained_points(run: Run) -> list[Outcomes]:
    return [o for name, o in run.outcomes.items() if name.startswith("trained/")]


def _accuracy(points: frontier.Frontier, calls: float) -> float:
    return frontier.interpolate(points, calls)[0]


def curve_by_step(
    runs: Sequence[Run], name: str, stage: str = "rl"
) -> tuple[list[int], list[float], list[Spread]]:
    """Returns a metric over runs, at the steps where every run that logs it has a value.

    Returns:
      The steps; the denoiser calls spent until then, a mean over the runs; the metric.
    """
    series = [{row["step"]: row for row in run.lines(stage) if name in row} for run in runs]
    series = list(filter(None, series))
    steps = sorted(set.intersection(*map(set, series))) if series else []
    spent = [np.mean([_spent(rows[step]) for rows in series]).item() for step in steps]
    return steps, spent, [spread([rows[step][name] for rows in series]) for step in steps]


def _spent(row: Mapping[str, Any]) -> float:
    # Step 0 validates the base model and has spent nothing.
    return row.get("calls/rollout", 0.0) + row.get("calls/update", 0.0)
