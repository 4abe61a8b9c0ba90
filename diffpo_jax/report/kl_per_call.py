"""The table, the picture and the file of figure 2: KL of each surrogate by call."""

import pathlib
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from diffpo_jax.report import figures
from diffpo_jax.report.tables import csv_text
from diffpo_jax.system.files import write_atomic

_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LEAST = 20  # tokens; what rests on fewer is in the table and the CSV, and not drawn
_MARKERS = ("s", "o", "^", "D", "v", "P")


def write(directory: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Writes figure2.csv, figure2.png and figure2.svg.

    Args:
      result: what `studies.figure2.run` returns.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / "figure2.csv", as_csv(result))
    figure = draw(result)
    for kind in ("png", "svg"):
        figures.save(figure, directory / f"figure2.{kind}", kind)


def as_csv(result: Mapping[str, Any]) -> str:
    """A line for each K and call: anchors, call, kl (nats a token), standard_error, tokens."""
    columns = ("anchors", "call", "kl", "standard_error", "tokens")
    rows = [
        {"anchors": count} | point
        for count, one in result["surrogates"].items()
        for point in one["by_call"]
    ]
    return csv_text(columns, rows)


def table(result: Mapping[str, Any]) -> str:
    """By call and K in nats a token, the means, and what was seen of Theorem 3's assumption."""
    counts = list(result["surrogates"])
    by_call = {
        count: {p["call"]: p["kl"] for p in one["by_call"]}
        for count, one in result["surrogates"].items()
    }
    tokens = {p["call"]: p["tokens"] for p in result["surrogates"][counts[0]]["by_call"]}
    lines = ["KL(sampler || surrogate) by call, nats a token", ""]
    lines.append("call    tokens" + "".join(f"{'K=' + count:>10}" for count in counts))
    for call, number in tokens.items():
        cells = "".join(f"{by_call[count][call]:>10.4f}" for count in counts)
        lines.append(f"{call:>4}{number:>10}{cells}")
    for name, key in (("mean a token", "kl_token"), ("a sequence", "kl_sequence")):
        cells = "".join(f"{result['surrogates'][count][key]:>10.4f}" for count in counts)
        lines.append(f"{name:<14}{cells}")
    seen = result["assumption"]
    lines += [
        "",
        f"A later state is never worse: for {100 * seen['tokens_holding']:.1f} % of the tokens; "
        f"worse at {100 * seen['pairs_growing']:.1f} % of {seen['pairs']} steps from a state to "
        "the next.",
    ]
    return "\n".join(lines)


def draw(result: Mapping[str, Any]) -> Figure:
    """KL a token against the call, a line for each K; bars are one standard error.

    Calls that committed fewer than 20 tokens in all are left out.
    """
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for i, (count, one) in enumerate(result["surrogates"].items()):
        points = [p for p in one["by_call"] if p["tokens"] >= _LEAST] or one["by_call"]
        axes.errorbar(
            [p["call"] for p in points],
            [p["kl"] for p in points],
            yerr=[p["standard_error"] for p in points],
            color=_COLOURS[i % len(_COLOURS)],
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=4,
            linewidth=1.5,
            elinewidth=1,
            label=f"K = {count} ({one['kl_token']:.3f} a token, {one['kl_sequence']:.2f} in all)",
        )
    of = result["settings"]
    axes.set_xlabel("denoiser call that committed the token")
    axes.set_ylabel("KL(sampler || surrogate), nats a token")
    axes.set_title(
        f"{of['prompts']} prompts, {of['rollouts']} rollouts each, T = {of['temperature']:g}, "
        f"{of['model']} model. Bars: ±1 standard error over prompts.",
        fontsize=8.5,
        color=figures.GREY,
        loc="left",
    )
    figures.quiet(axes)
    axes.legend(frameon=False, loc="best", fontsize=8.5)
    return figure
