"""Writes the directory `report/` of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffpo_jax.analysis import bootstrap
from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.analysis.summary import METRIC, dial_of, frontier_rows, metrics_of
from diffpo_jax.report.curves import plot_learning_curves
from diffpo_jax.report.outcomes import plot_by_difficulty, plot_frontier
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

    by_difficulty.png is written as well if the summary has numbers by difficulty. Each file is
    replaced atomically; summary.json comes last, so if it exists the others do.

    Args:
      directory: created if missing.
      metrics: the lines of metrics.jsonl.
      outcomes: those of each point, by its name.

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
    """Returns the points of both frontiers as CSV with a header.

    Columns: model, gamma (nats; under another commit rule, its dial), accuracy (share), nfe (calls
    per sequence), tokens_per_call, forced (share of sequences that reached the cap on calls), and
    the means of the user's metrics.
    """
    dials = dict.fromkeys(dial_of(summary, model) for model in ("base", "trained"))
    metrics = [METRIC + name for name in metrics_of(summary)]
    return csv_text(("model", *dials, *_COLUMNS, *metrics), frontier_rows(summary))
