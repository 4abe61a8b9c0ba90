"""The tables of a study: how each arm ended, at equal calls, and against a reference.

All cells are text, ready for a terminal or a page.
"""

import math
from collections.abc import Mapping, Sequence

from diffpo_jax.analysis import comparison, frontier
from diffpo_jax.analysis.comparison import Spread
from diffpo_jax.analysis.groups import Group, by_task
from diffpo_jax.analysis.runs import Run
from diffpo_jax.report import tables
from diffpo_jax.report.tables import Table


def study_tables(
    groups: Sequence[Group], calls: Sequence[float], reference: str | None = None
) -> list[Table]:
    """Returns three tables for each task of finished arms, or two if a task has only one arm.

    Args:
      calls: where the frontiers are compared.
      reference: the arm that the others are compared with; None for a task's first.
    """
    result = []
    for task, arms in by_task(groups).items():
        against = against_reference(arms, task, calls, reference)
        result += [final(arms, task), at_equal_calls(arms, task, calls)]
        result += [against] if against.rows else []
    return result


def final(arms: Sequence[Group], task: str) -> Table:
    """Returns how each arm ended: accuracy, calls, gain over the base, AUP, calls of training."""
    summaries = [run.summary for arm in arms for run in arm.runs]
    curves = [summary[model]["frontier"] for summary in summaries for model in ("base", "trained")]
    best = max(point["accuracy"] for curve in curves for point in curve)
    rows = []
    for label, runs, _ in arms:
        points = [comparison.reported_point(run) for run in runs]
        learns = runs[0].summary["trained"]["learned"] is not None
        row = {
            "arm": label,
            "seeds": str(len(runs)),
            "threshold": "learned" if learns else "best fixed",
            "accuracy, %": _percent(comparison.spread([p["accuracy"] for p in points])),
            "calls": _number(comparison.spread([p["nfe"] for p in points])),
            "tokens per call": _number(comparison.spread([p["tokens_per_call"] for p in points])),
            "gain at those calls": _points(comparison.spread(list(map(comparison.gain, runs)))),
            "mean gain": _points(comparison.spread(list(map(comparison.mean_gain, runs)))),
            "AUP": _number(_aup(runs, "trained", best), "{:.0f}"),
            "AUP of the base": _number(_aup(runs, "base", best), "{:.0f}"),
            "denoiser calls of RL": _training_calls(runs),
        }
        rows.append(row)
    note = (
        "Last checkpoint, test prompts; mean and standard deviation over seeds. Gains are over the "
        "run's own base model, in points: at the calls of the point, and the mean over all calls "
        "that both frontiers cover. 'best fixed' is chosen on these prompts, which flatters arms "
        "that learn no threshold. AUP: accuracy under parallelism, arXiv 2601.07568."
    )
    return tables.from_rows(f"{task}: where each arm ended", rows, note)


def _training_calls(runs: Sequence[Run]) -> str:
    used = [run.summary["denoiser_calls"] for run in runs]
    return f"{sum(calls['rollout'] + calls['update'] for calls in used) / len(runs):,.0f}"


def _aup(runs: Sequence[Run], model: str, best: float) -> Spread:
    return comparison.spread([frontier.aup(r.summary[model]["frontier"], best) for r in runs])


def at_equal_calls(arms: Sequence[Group], task: str, calls: Sequence[float]) -> Table:
    """Returns the accuracy of the frontiers at given calls, the base models' first."""
    bases = comparison.base_groups([run for arm in arms for run in arm.runs])
    rows = []
    for model, groups in (("base", bases), ("trained", arms)):
        for label, runs, _ in groups:
            at = [[comparison.at_calls(run, model, c) for run in runs] for c in calls]
            accuracies = [_percent(comparison.spread(values)) for values in at]
            rows.append([label, str(len(runs)), *accuracies])
    note = (
        "In %, mean and standard deviation over seeds. Linear between the points of each frontier; "
        "a dash if one of them does not reach these calls."
    )
    columns = ("arm", "seeds", *(f"{c:g} calls" for c in calls))
    return Table(f"{task}: accuracy at equal calls, thresholds fixed", columns, rows, note)


def against_reference(
    arms: Sequence[Group], task: str, calls: Sequence[float], reference: str | None
) -> Table:
    """Returns paired differences from one arm, with bootstrap intervals."""
    other = next((arm for arm in arms if arm.label == reference), arms[0])
    names = [*(f"{c:g}" for c in calls), "mean", "learned"]
    rows = []
    for label, runs, _ in arms:
        common = {run.seed for run in runs} & {run.seed for run in other.runs}
        if label != other.label and common:
            differences = comparison.paired_differences(runs, other.runs, calls)
            cells = [_difference(differences.get(name)) for name in names]
            rows.append([label, str(len(common)), *cells])
    note = (
        "Points above the reference at equal calls, with a 95 % bootstrap interval over prompts, "
        "which are the same for all seeds; after ±, the standard deviation over seeds. The last "
        "column compares an arm's learned point with the reference's frontier of fixed thresholds "
        "at the same calls."
    )
    columns = ("arm", "seeds", *(f"{c:g} calls" for c in calls), "mean", "at its learned threshold")
    return Table(f"{task}: against {other.label}, on the same prompts", columns, rows, note)


def _percent(share: Spread) -> str:
    """Formats a share in percent: "97.2 ± 0.4"."""
    return _number(share, "{:.1f}", 100)


def _points(difference: Spread) -> str:
    """Formats a difference of shares in points, with its sign."""
    return _number(difference, "{:+.1f}", 100)


def _number(value: Spread, form: str = "{:.2f}", scale: float = 1) -> str:
    """Formats a mean and its deviation; a dash if the mean is not known."""
    if math.isnan(value.mean):
        return "-"
    mean, deviation = (form.format(scale * x) for x in (value.mean, value.deviation))
    return mean if math.isnan(value.deviation) else f"{mean} ± {deviation.lstrip('+')}"


def _difference(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "-"
    text = f"{100 * value['gain']:+.1f} [{100 * value['low']:+.1f}, {100 * value['high']:+.1f}]"
    return text if value["seeds"] == 1 else f"{text} ± {100 * value['deviation']:.1f}"
