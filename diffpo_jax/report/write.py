"""Writes the directory `report/` of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffpo_jax.analysis import bootstrap
from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.report.difficulty import plot_by_difficulty
from diffpo_jax.report.figures import plot_frontier, plot_learning_curves
from diffpo_jax.report.tables import csv_text
from diffpo_jax.system.files import write_atomic, write_json

_COLUMNS = ("accuracy", "nfe", "tokens_per_call", "forced")


def write_report(
    directory: str | Path,
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, Outcomes],
) -> None:
    """Writes frontier.png, learning_curves.png, frontier.csv, outcomes.npz and summary.json.

    And by_difficulty.png, where the summary says something of that.

    Each file is replaced atomically; `summary.json` comes last, so where it exists the
    others do.

    Args:
      directory: made if missing.
      summary: what `make_summary` returned.
      metrics: the lines of `metrics.jsonl`.
      outcomes: what became of each prompt, by the name of the point.

    Raises:
      OSError: a file could not be written.
    """
    directory = Path(directory)
    plot_frontier(summary, directory / "frontier.png")
    plot_learning_curves(metrics, directory / "learning_curves.png")
    if summary.get("by_difficulty"):
        plot_by_difficulty(summary["by_difficulty"], directory / "by_difficulty.png")
    write_atomic(directory / "frontier.csv", frontier_csv(summary))
    bootstrap.write_outcomes(directory / "outcomes.npz", outcomes)
    write_json(directory / "summary.json", summary)


def frontier_csv(summary: Mapping[str, Any]) -> str:
    """The points of both frontiers as CSV with a header.

    Columns: model, gamma (nats; or the dial of another rule), accuracy (share), nfe (calls a
    sequence), tokens_per_call, forced (share of sequences that met the cap on calls).
    The learned point, if any, is the row "trained-learned" with its median threshold.
    """
    return csv_text(("model", summary["dial"], *_COLUMNS), frontier_rows(summary))


def frontier_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same as rows, with all that a point holds."""
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
