"""Figures of what training logs against the step: of one run, or of groups of runs."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from diffpo_jax.analysis import comparison
from diffpo_jax.analysis.groups import Group, only_run
from diffpo_jax.report import figures, picture
from diffpo_jax.report.figures import GAMMA, Quantity
from diffpo_jax.report.picture import Picture

_ESS, _SHARE = "Effective sample size of the importance weights", "% of the tokens"
_GAMMAS = ("gamma/p50", "gamma/p5", "gamma/p95")
LEARNING = (
    Quantity("reward", "Training reward", "reward (mean per rollout)", "reward"),
    Quantity("accuracy", "Accuracy", "% solved", "accuracy", points="eval/accuracy", scale=100.0),
    Quantity("calls", "NFE", "calls per sequence", "nfe", points="eval/nfe"),
    Quantity("gamma", "Threshold", f"{GAMMA} (nats)", *_GAMMAS, log=True),
)
# For several runs, validation has separate figures with one line per group.
VALIDATION = (
    Quantity("validation_accuracy", "Accuracy, validation", "% solved", "eval/accuracy", scale=100),
    Quantity("validation_calls", "NFE, validation", "calls per sequence", "eval/nfe"),
)
# These show a collapse, or a surrogate far from the sampler, before the reward does.
WARNINGS = (
    Quantity("entropy", "Entropy of tokens when committed", "nats", "entropy"),
    Quantity("tokens_per_call", "Tokens per call", "tokens per call", "tokens_per_call"),
    Quantity("equal_groups", "Groups without a signal", "% of groups", "groups/equal", scale=100.0),
    Quantity("head_entropy", "Entropy of the head by state", "nats per call", "head/entropy"),
    Quantity("head_right", "Head by state: loss in hindsight", "nats", "head/right_loss"),
    Quantity("kl_sequence", "KL from sampler to surrogate", "nats per sequence", "kl/sequence"),
)
PRETRAINING = (
    Quantity("pretrain_loss", "Base model: loss of masked tokens", "nats per token", "loss"),
)
BY_CALL = (
    Quantity("kl_by_call", "KL by call", "nats per token", "kl/token"),
    Quantity("weights_ess", _ESS, _SHARE, "weights/ess", scale=100),
    Quantity("weights_truncated", "Weights above the cap", _SHARE, "weights/truncated", scale=100),
)
_CAPTIONS = {
    "reward": "Reward of a step's rollouts, after the price of calls is subtracted.",
    "accuracy": "Training rollouts are sampled at the training temperature.",
    "calls": "Denoiser calls per sequence of training rollouts.",
    "gamma": "Thresholds sampled in training.",
    "validation_accuracy": "Validation prompts, decoded as in the final evaluation.",
    "validation_calls": "Denoiser calls per sequence of validation prompts.",
    "entropy": "Entropy of a token's distribution at the call that commits it. Near 0, nothing "
    "new is explored.",
    "tokens_per_call": "If it rises while accuracy falls, the commit rule commits too many "
    "tokens at once.",
    "equal_groups": "Groups whose rollouts all earn the same reward: they teach nothing.",
    "head_entropy": "Entropy of the number of positions that a call commits, in rollouts.",
    "head_right": "Cross-entropy, by position, of whether a call's first tokens are right, as the "
    "solved rollouts of the group show afterwards.",
    "kl_sequence": "How far the surrogate likelihood is from the policy that generated the "
    "rollouts. The estimate is heavy-tailed: single steps can be far off.",
    "pretrain_loss": "Masked-diffusion training of the base model.",
    "kl_by_call": "How far the surrogate likelihood is from the sampler.",
    "weights_ess": "100 % if all tokens weigh the same, near 0 if a few outweigh the others.",
    "weights_truncated": "Tokens whose importance weight is cut off at the cap.",
}
_STEP = {"rl": "RL step", "pretrain": "step of the base model's training"}
_SMOOTH = 12  # lines are smoothed over a 12th of the steps
_MARKED = 40  # points; a longer line has no markers


def plot_learning_curves(metrics: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Draws `LEARNING` against the RL step as a PNG, one small panel per quantity.

    A metric that was not logged is not drawn, nor is a panel without any.
    """
    rows = sorted((r for r in metrics if r["stage"] == "rl"), key=lambda r: r["step"])
    panels = [q for q in LEARNING if any(map(q.is_in, rows))]
    columns = 2 if len(panels) > 1 else 1
    height = max(1, math.ceil(len(panels) / columns))
    figure = figures.new(4.2 * columns, 2.7 * height)
    if not panels:
        message = "no RL steps were logged"
        figure.text(0.5, 0.5, message, ha="center", va="center", color=figures.GREY)
    for i, quantity in enumerate(panels):
        axes = figure.add_subplot(height, columns, i + 1)
        _draw_run(axes, quantity, rows)
        axes.set_xlabel(_STEP["rl"])
        figures.quiet(axes, quantity.title)
        figures.draw_legend(axes, fontsize=8)
    figures.save(figure, path)


def learning(groups: Sequence[Group]) -> list[Picture]:
    """Returns figures of reward, accuracy, calls and thresholds in training and validation."""
    if only_run(groups):
        return _pictures(groups, LEARNING)
    return _pictures(groups, (*LEARNING, *VALIDATION)) + _pictures_by_cost(groups)


def warning_signs(groups: Sequence[Group]) -> list[Picture]:
    """Returns figures of `WARNINGS`, and of the loss of base models trained in these runs."""
    return _pictures(groups, WARNINGS) + _pictures(groups, PRETRAINING, "pretrain")


def _pictures(
    groups: Sequence[Group], quantities: Sequence[Quantity], stage: str = "rl"
) -> list[Picture]:
    rows = [row for group in groups for run in group.runs for row in run.lines(stage)]
    return [_picture(groups, q, stage) for q in quantities if any(map(q.is_in, rows))]


def _pictures_by_cost(groups: Sequence[Group]) -> list[Picture]:
    """Returns figures against the denoiser calls spent, which differ between methods by step."""
    logged = [row for group in groups for run in group.runs for row in run.rl]
    quantities = [q for q in (LEARNING[0], *VALIDATION) if any(map(q.is_in, logged))]
    if not all("calls/rollout" in row for row in logged if row["step"] > 0):
        return []
    pictures = []
    for quantity in quantities:
        figure, axes = picture.new()
        drawn = draw_groups(axes, groups, quantity, against_calls=True)
        label_cost(axes)
        picture.finish(figure, axes)
        fields = ("step", "calls/rollout", "calls/update", quantity.line)
        rows = picture.run_rows(groups, fields, lambda run, q=quantity: filter(q.is_in, run.rl))
        caption = f"Against the denoiser calls that training had spent. {drawn}".strip()
        title = f"{quantity.title}, by calls spent"
        pictures.append(Picture(f"{quantity.name}_by_cost", figure, rows, title, caption))
    return pictures


def _picture(groups: Sequence[Group], quantity: Quantity, stage: str) -> Picture:
    figure, axes = picture.new()
    if run := only_run(groups):
        drawn = _draw_run(axes, quantity, run.lines(stage))
    else:
        drawn = draw_groups(axes, groups, quantity, stage)
    axes.set_xlabel(_STEP[stage])
    picture.finish(figure, axes)
    fields = ("step", *quantity.fields)
    rows = picture.run_rows(groups, fields, lambda run: filter(quantity.is_in, run.lines(stage)))
    caption = f"{_CAPTIONS[quantity.name]} {drawn}".strip()
    return Picture(quantity.name, figure, rows, quantity.title, caption)


def _draw_run(axes: Axes, quantity: Quantity, rows: Sequence[Mapping[str, Any]]) -> str:
    """Draws the panel of one run, and returns a sentence about what is drawn."""
    window = _window(sum(quantity.line in row for row in rows))
    label = "median" if quantity.low else "training" if quantity.points else None
    look = {"color": figures.TRAINED, "marker": "", "linewidth": 1.6, "window": window}
    figures.draw_quantity(axes, quantity, rows, label=label, band_label="5 to 95 %", **look)
    validated = [row for row in rows if quantity.points in row]
    if validated:
        x, y = ([row[name] for row in validated] for name in ("step", quantity.points))
        y = [quantity.scale * value for value in y]
        look = {"linestyle": "none", "marker": "D", "markersize": 5, "color": figures.BASE}
        (drawn,) = axes.plot(x, y, **look)
        figures.add_series(axes, drawn, "validation", map(figures.Point, x, y))
    text = []
    if quantity.low:
        text.append("The line is the median over the prompts of a step, the band 5 to 95 %.")
    if quantity.points:
        text.append("Diamonds: validation prompts, decoded as in the final evaluation.")
    if window > 1:
        text.append(f"{_smoothing(window).capitalize()}; the faint line is not.")
    return " ".join(text)


def _window(steps: int) -> int:
    """The steps that a line of so many is smoothed over; 1 for no smoothing."""
    return max(1, 2 * (steps // _SMOOTH // 2) + 1)


def _smoothing(window: int) -> str:
    return f"smoothed over {window} logged steps"


def label_cost(axes: Axes) -> None:
    """Labels an axis of denoiser calls spent, of which there are hundreds of thousands and more."""
    axes.set_xlabel("denoiser calls of rollouts and updates")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_groups(
    axes: Axes,
    groups: Sequence[Group],
    quantity: Quantity,
    stage: str = "rl",
    against_calls: bool = False,
) -> str:
    """Draws one line per group against the step, and returns a sentence about what is drawn.

    Args:
      against_calls: draw it against the denoiser calls spent until then instead.
    """
    widest, banded = 1, False
    for group in groups:
        steps, calls, spreads = comparison.curve_by_step(group.runs, quantity.line, stage)
        if not steps:
            continue
        window, band = _window(len(steps)), None
        values = [[quantity.scale * v for v in spread.values] for spread in spreads]
        if len(values[0]) > 1:
            banded, band = True, (list(map(min, values)), list(map(max, values)))
        means = [sum(row) / len(row) for row in values]
        look = figures.style(group.place) | ({"marker": ""} if len(steps) > _MARKED else {})
        look |= {"window": window, "label": group.label}
        figures.draw_curve(axes, calls if against_calls else steps, means, band, **look)
        widest = max(widest, window)
    if quantity.log:
        figures.log_scale(axes)
    axes.set_ylabel(quantity.unit)
    parts = ["lines are means over seeds, bands their range"] if banded else []
    if widest > 1:
        parts.append(f"{_smoothing(widest)} at most; faint lines are not")
    return ", ".join(parts).capitalize() + "." * bool(parts)


def by_call(groups: Sequence[Group]) -> list[Picture]:
    """Returns figures of `BY_CALL`, if logged: metrics by the call that committed a token.

    One run is drawn against the step, with one line per range of calls; several are drawn against
    the range, as means over all steps, with one line per group.
    """
    pictures = []
    rows = [row for group in groups for run in group.runs for row in run.rl]
    for quantity in BY_CALL:
        prefix = f"{quantity.line}/calls_"
        logged = {key for row in rows for key in row if key.startswith(prefix)}
        fields = sorted(logged, key=lambda key: int(key.rpartition("_")[2].partition("-")[0]))
        if fields:
            pictures.append(_picture_by_call(groups, quantity, fields))
    return pictures


def _picture_by_call(groups: Sequence[Group], quantity: Quantity, fields: Sequence[str]) -> Picture:
    figure, axes = picture.new()
    ranges = [field.rpartition("_")[2].replace("-", " to ") for field in fields]
    drawn = "By the call that committed the token"
    caption = _CAPTIONS[quantity.name]
    if run := only_run(groups):
        window = _window(len(run.rl))
        for i, (field, calls) in enumerate(zip(fields, ranges)):
            look = figures.style(i) | {"marker": "", "window": window, "label": f"call {calls}"}
            look |= {"raw": False}  # too many lines
            figures.draw_quantity(axes, quantity._replace(line=field), run.rl, **look)
        axes.set_xlabel(_STEP["rl"])
        drawn += f"; {_smoothing(window)}" if window > 1 else ""
    else:
        for group in groups:
            _draw_means(axes, group, quantity, fields)
        axes.set_xticks(range(len(fields)), ranges)
        axes.set_xlabel("call that committed the token")
        drawn += "; means over the logged steps and the runs"
    picture.finish(figure, axes)
    rows = picture.run_rows(
        groups, ("step", *fields), lambda run: (row for row in run.rl if {*fields} & row.keys())
    )
    return Picture(quantity.name, figure, rows, quantity.title, f"{caption} {drawn}.")


def _draw_means(axes: Axes, group: Group, quantity: Quantity, fields: Sequence[str]) -> None:
    """Draws the mean of each field over all rows of a group, at the field's index."""
    rows = [row for run in group.runs for row in run.rl]
    values = [[quantity.scale * row[field] for row in rows if field in row] for field in fields]
    means = {i: sum(column) / len(column) for i, column in enumerate(values) if column}
    look = figures.style(group.place) | {"label": group.label if means else None}
    figures.draw_curve(axes, list(means), list(means.values()), **look)
    axes.set_ylabel(quantity.unit)
