"""The table and the picture of figure 2: KL of each surrogate by call."""

from collections.abc import Mapping
from typing import Any

from diffpo_jax.report import figures, tables
from diffpo_jax.report.picture import Picture
from diffpo_jax.report.tables import Table

_LEAST = 20  # tokens; calls that committed fewer are in the table and the CSV, but not drawn


def draw(result: Mapping[str, Any]) -> Picture:
    """Draws what `studies.surrogate_kl.run` returns: KL against the call, a line for each K.

    Bars are one standard error. The CSV has a line for each K and call: anchors, call, kl (nats
    per token), standard_error, tokens.
    """
    figure = figures.new(7.2, 4.4)
    axes = figure.add_subplot()
    surrogates, settings = result["surrogates"], result["settings"]
    for i, (count, one) in enumerate(surrogates.items()):
        points = [p for p in one["by_call"] if p["tokens"] >= _LEAST] or one["by_call"]
        calls, kl, errors = ([p[n] for p in points] for n in ("call", "kl", "standard_error"))
        label = f"K = {count} ({one['kl_token']:.3f} per token, {one['kl_sequence']:.2f} in all)"
        look = figures.style(i) | {"markersize": 4, "linewidth": 1.5, "elinewidth": 1}
        drawn = axes.errorbar(calls, kl, yerr=errors, **look)
        figures.add_series(axes, drawn, label)
    axes.set_xlabel("denoiser call that committed the token")
    axes.set_ylabel("KL(sampler || surrogate), nats per token")
    note = (
        f"{settings['prompts']} prompts, {settings['rollouts']} rollouts each, "
        f"T = {settings['temperature']:g}, {settings['model']} model. "
        "Bars: ±1 standard error over prompts."
    )
    figures.quiet(axes, note=note)
    figures.draw_legend(axes)
    rows = [{"anchors": k} | point for k, one in surrogates.items() for point in one["by_call"]]
    return Picture("figure2", figure, rows)


def as_text(result: Mapping[str, Any]) -> str:
    """Returns the KL by call and K, its means, and how often Theorem 3's assumption holds."""
    surrogates, assumption = result["surrogates"], result["assumption"]
    by_call = zip(*(one["by_call"] for one in surrogates.values()))
    rows = [
        [str(points[0]["call"]), str(points[0]["tokens"]), *(f"{p['kl']:.4f}" for p in points)]
        for points in by_call
    ]
    for name, key in (("mean per token", "kl_token"), ("per sequence", "kl_sequence")):
        rows.append([name, "", *(f"{one[key]:.4f}" for one in surrogates.values())])
    title = "KL(sampler || surrogate) by call, nats per token"
    note = (
        f"For {100 * assumption['tokens_holding']:.1f} % of the tokens a later state is never "
        f"worse; it is worse at {100 * assumption['pairs_growing']:.1f} % of "
        f"{assumption['pairs']} steps from a state to the next."
    )
    return tables.as_text(
        Table(title, ("call", "tokens", *(f"K={count}" for count in surrogates)), rows, note)
    )
