"""The tables of a study: how each arm ended, at equal calls, and against a reference.

A table is {"title", "columns", "rows", "note"}; cells are text, ready for a terminal or a page.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffpo_jax.analysis import comparison, frontier
from diffpo_jax.analysis.comparison import Finished, Spread

Table = dict[str, Any]


def tables(
    runs: Sequence[Finished], calls: Sequence[float], reference: str | None = None
) -> list[Table]:
    """Three tables for each task, in the order of the runs.

    Args:
      calls: where the frontiers are compared.
      reference: the arm that the others are compared with; None: a task's first.
    """
    found = []
    for task in dict.fromkeys(run.task for run in runs):
        of_task = [run for run in runs if run.task == task]
        found.append(final(of_task, task))
        found.append(at_equal_calls(of_task, task, calls))
        against = against_reference(of_task, task, calls, reference)
        if against["rows"]:
            found.append(against)
    return found


def final(runs: Sequence[Finished], task: str) -> Table:
    """How each arm ended: accuracy, calls, gain over the base, AUP, denoiser calls it cost."""
    best = comparison.best_of_all(runs)
    rows = []
    for arm, of_arm in comparison.by_arm(runs).items():
        points = [comparison.chosen(run) for run in of_arm]
        at = "learned" if of_arm[0].summary["trained"]["learned"] is not None else "best fixed"
        aups = [
            [frontier.aup(run.summary[name]["frontier"], best) for run in of_arm]
            for name in ("trained", "base")
        ]
        rows.append(
            [
                arm,
                str(len(of_arm)),
                at,
                percent(comparison.spread([p["accuracy"] for p in points])),
                number(comparison.spread([p["nfe"] for p in points])),
                number(comparison.spread([p["tokens_per_call"] for p in points])),
                points_of(comparison.spread([comparison.gain(run) for run in of_arm])),
                points_of(comparison.spread([comparison.mean_gain(run) for run in of_arm])),
                *(number(comparison.spread(values), 0) for values in aups),
                f"{sum(map(comparison.total_calls, of_arm)) / len(of_arm):,.0f}",
            ]
        )
    return {
        "title": f"{task}: where each arm ended",
        "columns": [
            "arm",
            "seeds",
            "threshold",
            "accuracy, %",
            "calls",
            "tokens a call",
            "gain at those calls",
            "mean gain",
            "AUP",
            "AUP of the base",
            "denoiser calls of RL",
        ],
        "rows": rows,
        "note": (
            "Last checkpoint, test prompts; mean and standard deviation over seeds. Gains are over "
            "the run's own base model, in points: at the calls of the point, and the mean over all "
            "calls that both frontiers cover. 'best fixed' is chosen on these prompts and flatters "
            "an arm that learns no threshold. AUP: accuracy under parallelism, arXiv 2601.07568."
        ),
    }


def at_equal_calls(runs: Sequence[Finished], task: str, calls: Sequence[float]) -> Table:
    """Accuracy of the frontiers at given calls, the bases' first."""
    sides = (("base", comparison.bases(runs)), ("trained", comparison.by_arm(runs)))
    rows = [
        [arm, str(len(of_arm)), *_accuracies(of_arm, which, calls)]
        for which, arms in sides
        for arm, of_arm in arms.items()
    ]
    return {
        "title": f"{task}: accuracy at equal calls, thresholds fixed",
        "columns": ["arm", "seeds", *(f"{c:g} calls" for c in calls)],
        "rows": rows,
        "note": (
            "In %, mean and standard deviation over seeds; linear between the points of each "
            "frontier, a dash where one of them does not reach."
        ),
    }


def against_reference(
    runs: Sequence[Finished], task: str, calls: Sequence[float], reference: str | None
) -> Table:
    """Paired differences to one arm, with bootstrap intervals."""
    arms = comparison.by_arm(runs)
    reference = reference if reference in arms else next(iter(arms))
    rows = []
    names = [*(f"{c:g}" for c in calls), "mean", "learned"]
    for arm, of_arm in arms.items():
        common = {r.seed for r in of_arm} & {r.seed for r in arms[reference]}
        if arm == reference or not common:
            continue
        found = comparison.paired(of_arm, arms[reference], calls)
        rows.append([arm, str(len(common)), *(_difference(found.get(name)) for name in names)])
    return {
        "title": f"{task}: against {reference}, on the same prompts",
        "columns": ["arm", "seeds", *(f"{c:g} calls" for c in calls), "mean", "at its learned"],
        "rows": rows,
        "note": (
            "Points more than the reference at equal calls, with a 95 % bootstrap interval over "
            "prompts, the same for all seeds; after ± the standard deviation over seeds. The last "
            "column compares an arm's learned point with the reference's frontier of fixed "
            "thresholds at those calls."
        ),
    }


def as_text(table: Table) -> str:
    """A table for a terminal, ending in a newline."""
    rows = ["  ".join(cells).rstrip() for cells in _aligned(table)]
    return "\n".join([table["title"], "", *rows, "", table["note"]]) + "\n"


def as_markdown(table: Table) -> str:
    """The same as a section of a Markdown document."""
    head, *rows = (f"| {' | '.join(cells)} |" for cells in _aligned(table))
    rule = f"|---|{'---:|' * (len(table['columns']) - 1)}"
    return "\n".join([f"## {table['title']}", "", head, rule, *rows, "", table["note"]]) + "\n"


def _aligned(table: Table) -> list[list[str]]:
    rows = [table["columns"], *table["rows"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table["columns"]))]
    return [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        for row in rows
    ]


def percent(value: Spread) -> str:
    """A share in percent: "97.2 ± 0.4"."""
    return _with_deviation(100 * value.mean, 100 * value.deviation, "{:.1f}")


def points_of(value: Spread) -> str:
    """A difference of shares in points, with its sign; a dash where there is none."""
    return _with_deviation(100 * value.mean, 100 * value.deviation, "{:+.1f}")


def number(value: Spread, digits: int = 2) -> str:
    """Mean and deviation with so many digits."""
    return _with_deviation(value.mean, value.deviation, f"{{:.{digits}f}}")


def _with_deviation(mean: float, deviation: float, form: str) -> str:
    if math.isnan(mean):
        return "-"
    text = form.format(mean)
    return text if math.isnan(deviation) else f"{text} ± {form.format(deviation).lstrip('+')}"


def _accuracies(runs: Sequence[Finished], which: str, calls: Sequence[float]) -> list[str]:
    return [
        percent(comparison.spread([comparison.at_calls(r, which, c) for r in runs])) for c in calls
    ]


def _difference(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    text = f"{100 * found['gain']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
    return text if found["seeds"] == 1 else f"{text} ± {100 * found['deviation']:.1f}"
