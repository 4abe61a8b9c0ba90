"""Figures of what training logs against the step: of one run, or of groups of runs."""

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from diffpo_jax.analysis.groups import Group
from diffpo_jax.report import figures, picture
from diffpo_jax.report.figures import Quantity
from diffpo_jax.report.picture import Picture

WATCH = (
    Quantity("entropy", "Entropy of tokens when committed", "nats", "entropy"),
    Quantity("tokens_per_call", "Tokens per call", "tokens", "tokens_per_call"),
    Quantity("equal_groups", "Groups that teach nothing", "% of groups", "groups/equal", scale=100),
    Quantity("kl_sequence", "KL from sampler to surrogate", "nats a sequence", "kl/sequence"),
)
_VALIDATED = (
    Quantity("validation_accuracy", "Accuracy, validation", "% solved", "eval/accuracy", scale=100),
    Quantity("validation_calls", "NFE, validation", "calls per sequence", "eval/nfe"),
)
_SMOOTH = 30  # lines are smoothed over the 30th part of their steps
_SAYS = {
    "reward": "Reward of a step's rollouts, the price of calls taken off.",
    "accuracy": "Rollouts of training are drawn at its temperature.",
    "calls": "Denoiser calls a sequence, of rollouts in training.",
    "gamma": "Thresholds drawn in training.",
    "entropy": "Of a token's distribution at the call that commits it. Where it nears 0 nothing "
    "is explored any more.",
    "tokens_per_call": "More tokens a call at the price of accuracy: the commit rule no longer "
    "holds back.",
    "equal_groups": "Groups whose rollouts all earn the same.",
    "kl_sequence": "How far the scored likelihood is from the policy that made the rollouts. Its "
    "estimate is heavy-tailed: single steps may stand far out.",
    "pretrain_loss": "Masked-diffusion training of the base model.",
    "validation_accuracy": "Validation prompts, decoded as in the end.",
    "validation_calls": "Denoiser calls of validation prompts.",
}


def pretraining(groups: Sequence[Group]) -> list[Picture]:
    """The loss of base models that were trained in these runs."""
    loss = Quantity("pretrain_loss", "Base model: loss of masked tokens", "nats a token", "loss")
    return _pictures(groups, (loss,), "pretrain")


def learning(groups: Sequence[Group]) -> list[Picture]:
    """Reward, accuracy, calls, γ, validation."""
    alone = _alone(groups)
    return _pictures(groups, figures.LEARNING if alone else (*figures.LEARNING, *_VALIDATED), "rl")


def watched(groups: Sequence[Group]) -> list[Picture]:
    """What shows a collapse, or a surrogate that has left the sampler, before the reward does."""
    return _pictures(groups, WATCH, "rl")


def mean_and_range(group: Group, name: str, stage: str = "rl") -> list[tuple[int, list[float]]]:
    """(step, one value a run) at the steps where every run of the group that logs it has one."""
    found = [dict(zip(*figures.series(run.lines(stage), name))) for run in group.runs]
    found = [values for values in found if values]
    if not found:
        return []
    shared = sorted(set.intersection(*(set(values) for values in found)))
    return [(step, [values[step] for values in found]) for step in shared]


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """The median over a window of `width` around each value, cut off at the ends.

    Not the mean: estimates of a KL have single values that would fill the window.
    """
    half = width // 2
    return [statistics.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _alone(groups: Sequence[Group]) -> bool:
    return sum(len(group.runs) for group in groups) == 1


def _pictures(groups: Sequence[Group], quantities: Sequence[Quantity], stage: str) -> list[Picture]:
    runs = [run for group in groups for run in group.runs]
    return [
        _picture(groups, quantity, stage)
        for quantity in quantities
        if any(figures.logged(quantity, run.lines(stage)) for run in runs)
    ]


def _picture(groups: Sequence[Group], quantity: Quantity, stage: str) -> Picture:
    figure, axes = picture.new()
    if _alone(groups):
        says = _draw_run(axes, groups[0].runs[0].lines(stage), quantity)
    else:
        says = _draw_groups(axes, groups, quantity, stage)
    axes.set_xlabel("step of the base model" if stage == "pretrain" else "RL step")
    picture.finish(figure, axes)
    columns = ("run", "seed", "step", *quantity.fields)
    rows = [
        {"run": run.name, "seed": run.seed} | row
        for group in groups
        for run in group.runs
        for row in run.lines(stage)
        if any(name in row for name in quantity.fields)
    ]
    says = f"{_SAYS[quantity.name]} {says}".strip()
    return Picture(quantity.name, quantity.title, says, figure, columns, rows)


def _draw_run(axes: Axes, rows: Sequence[dict[str, Any]], quantity: Quantity) -> str:
    """The panel of a run's own report, and through many noisy steps their running median."""
    figures.draw_quantity(axes, quantity, rows)
    if quantity.low:
        return "Median over the prompts of a step, with the band from 5 to 95 %."
    says = "Diamonds: validation prompts, decoded as in the end." if quantity.points else ""
    steps, values = figures.series(rows, quantity.line)
    width = len(values) // _SMOOTH
    if width < 2:
        return says
    axes.get_lines()[0].set_alpha(0.35)
    drawn = smoothed([quantity.scale * v for v in values], width)
    axes.plot(steps, drawn, color=figures.TRAINED, linewidth=1.6)
    return f"{says} Thick: {_median(width)}.".strip()


def _median(width: int) -> str:
    return f"running median over {2 * (width // 2) + 1} steps"


def _draw_groups(axes: Axes, groups: Sequence[Group], quantity: Quantity, stage: str) -> str:
    """A line a group; returns what is drawn."""
    widest, banded = 1, False
    sparse = quantity.line.startswith("eval/")
    drawn: list[float] = []
    for i, group in enumerate(groups):
        points = mean_and_range(group, quantity.line, stage)
        if not points:
            continue
        width = 1 if sparse else max(1, len(points) // _SMOOTH)
        widest = max(widest, width)
        steps = [step for step, _ in points]
        look = figures.style(i) | ({"markersize": 4} if sparse else {"marker": ""})
        scaled = [[quantity.scale * v for v in values] for _, values in points]
        if len(scaled[0]) > 1:
            banded = True
            ends = (smoothed([end(v) for v in scaled], width) for end in (min, max))
            axes.fill_between(steps, *ends, color=look["color"], alpha=0.18, linewidth=0)
        means = smoothed([sum(values) / len(values) for values in scaled], width)
        axes.plot(steps, means, linewidth=1.4, label=group.label, **look)
        drawn += [v for values in scaled for v in values]
    if quantity.log and drawn and min(drawn) > 0:
        figures.log_scale(axes, max(drawn) / min(drawn))
    axes.set_ylabel(quantity.unit)
    says = "A line is the mean over seeds, its band their range" if banded else ""
    if widest > 1:
        told = _median(widest).replace("over", "over up to")
        says = f"{says}, {told}" if says else told.capitalize()
    return f"{says}." if says else ""


def by_call(
    groups: Sequence[Group], name: str, file: str, title: str, unit: str, scale: float = 1.0
) -> list[Picture]:
    """A metric that is logged by the call which committed a token, in ranges of calls.

    For one run its course over the steps, a line a range; for several the mean over all steps
    against the range, a line a group.

    Args:
      name: of the metric; with "/calls_FROM-TO" behind it, by call.
    """
    prefix = f"{name}/calls_"
    found = {
        key
        for g in groups
        for run in g.runs
        for row in run.rl
        for key in row
        if key.startswith(prefix)
    }
    fields = sorted(found, key=lambda key: int(key.removeprefix(prefix).partition("-")[0]))
    if not fields:
        return []
    figure, axes = picture.new()
    if _alone(groups):
        says = _draw_course(axes, groups[0], fields, prefix, scale)
    else:
        says = _draw_means(axes, groups, fields, prefix, scale)
    axes.set_ylabel(unit)
    picture.finish(figure, axes)
    rows = [
        {"run": run.name, "seed": run.seed} | row
        for group in groups
        for run in group.runs
        for row in run.rl
        if any(field in row for field in fields)
    ]
    columns = ("run", "seed", "step", *fields)
    return [Picture(file, title, f"{title}. {says}", figure, columns, rows)]


def _draw_course(axes: Axes, group: Group, fields: Sequence[str], prefix: str, scale: float) -> str:
    run = group.runs[0]
    width = max(1, len(run.rl) // _SMOOTH)
    for i, field in enumerate(fields):
        steps, values = figures.series(run.rl, field)
        look = figures.style(i) | {"marker": ""}
        calls = field.removeprefix(prefix).replace("-", " to ")
        drawn = smoothed([scale * v for v in values], width)
        axes.plot(steps, drawn, linewidth=1.4, label=f"call {calls}", **look)
    axes.set_xlabel("RL step")
    told = f"; {_median(width)}" if width > 1 else ""
    return f"By the call that committed the token{told}."


def _draw_means(
    axes: Axes, groups: Sequence[Group], fields: Sequence[str], prefix: str, scale: float
) -> str:
    for i, group in enumerate(groups):
        places, means = [], []
        for place, field in enumerate(fields):
            values = [row[field] for run in group.runs for row in run.rl if field in row]
            if values:
                places.append(place)
                means.append(scale * sum(values) / len(values))
        if places:
            axes.plot(
                places, means, linewidth=1.4, markersize=4, label=group.label, **figures.style(i)
            )
    names = [field.removeprefix(prefix).replace("-", " to ") for field in fields]
    axes.set_xticks(range(len(fields)), names)
    axes.set_xlabel("call that committed the token")
    return "By the call that committed the token; means over the logged steps and the runs."
