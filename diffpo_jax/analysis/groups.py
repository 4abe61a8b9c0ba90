"""Groups of runs that reports show as one: runs that differ in the seed alone, arms of a study."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from diffpo_jax.analysis.runs import Run
from diffpo_jax.config import METHODS

# Fields that cannot change what is measured; each seed may have its own base model.
_IGNORED = ("seed", "init_from", "task.data_dir", "evaluation.batch", "evaluation.every")
_IGNORED_SECTIONS = ("mesh.", "logging.", "checkpoint.")
_LABEL_LENGTH = 40  # characters; longer labels made of fields are replaced by the runs' names


class Group(NamedTuple):
    """Runs that a figure shows as one."""

    label: str
    runs: list[Run]
    place: int = 0  # decides its colour and marker, the same in every figure of a report


def by_settings(runs: Sequence[Run]) -> list[Group]:
    """Groups runs that differ in the seed alone, in the order of their first run.

    Each seed may begin from its own base model. If a seed occurs twice, with two base models, the
    base model counts as a setting.
    """
    groups = []
    for alike in _gather(runs, lambda run: _settings(run, _IGNORED)):
        twice = len({run.seed for run in alike}) < len(alike)
        ignored = tuple(name for name in _IGNORED if name != "init_from") if twice else _IGNORED
        groups += _gather(alike, lambda run, ignored=ignored: _settings(run, ignored))
    labels = _labels(groups)
    return [Group(label, alike, i) for i, (label, alike) in enumerate(zip(labels, groups))]


def by_arm(runs: Sequence[Run], arms: Iterable[str] = ()) -> list[Group]:
    """Groups the runs of a study by arm, each arm's by task and then by seed.

    Args:
      arms: all arms of the study in order, so that an arm keeps its place if others have no runs.
    """
    places = {arm: i for i, arm in enumerate(dict.fromkeys([*arms, *(run.arm for run in runs)]))}
    tasks = list(dict.fromkeys(run.task for run in runs))
    ordered = sorted(runs, key=lambda run: (places[run.arm], tasks.index(run.task), run.seed))
    return [
        Group(alike[0].arm, alike, places[alike[0].arm])
        for alike in _gather(ordered, lambda run: run.arm)
    ]


def by_task(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Splits groups by the task of their runs; each part keeps its label and its place."""
    tasks = dict.fromkeys(run.task for group in groups for run in group.runs)
    return {task: keep_runs(groups, lambda run, task=task: run.task == task) for task in tasks}


def keep_runs(groups: Sequence[Group], keep: Callable[[Run], Any]) -> list[Group]:
    """Returns the groups with those of their runs for which `keep` holds, without empty groups."""
    kept = [group._replace(runs=[run for run in group.runs if keep(run)]) for group in groups]
    return [group for group in kept if group.runs]


def only_run(groups: Sequence[Group]) -> Run | None:
    """Returns the run if the groups have only one, else None."""
    runs = [run for group in groups for run in group.runs]
    return runs[0] if len(runs) == 1 else None


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the names of the fields that are not the same in all; a missing field differs."""
    names = sorted(set().union(*configs))
    return [name for name in names if len({_frozen(c, name) for c in configs}) > 1]


def _settings(run: Run, ignored: Sequence[str]) -> Hashable:
    return tuple((name, _frozen(run.config, name)) for name in _relevant(run.config, ignored))


def _relevant(config: dict[str, Any], ignored: Sequence[str]) -> list[str]:
    """Returns the names of the fields that decide what is measured."""
    unused = ("pretrain.",) if config["init_from"] else ()  # the base model is another run's
    sections = (*_IGNORED_SECTIONS, *unused)
    return sorted(n for n in config if n not in ignored and not n.startswith(sections))


def _gather(runs: Iterable[Run], key: Callable[[Run], Hashable]) -> list[list[Run]]:
    result: dict[Hashable, list[Run]] = {}
    for run in runs:
        result.setdefault(key(run), []).append(run)
    return list(result.values())


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Labels each group by the settings that set it apart, or by its runs if that is too long."""
    firsts = [alike[0].config for alike in groups]
    relevant = [{name: c[name] for name in _relevant(c, _IGNORED)} for c in firsts]
    names = [name for name in differing(relevant) if any(c.get(name) for c in relevant)]
    if "method" in names:  # it implies these fields
        implied = METHODS["diffpo"].keys()
        names = [name for name in names if name.rpartition(".")[2] not in implied]
    labels = [
        ", ".join(f"{name.rpartition('.')[2]} {_short(c.get(name))}" for name in names)
        for c in firsts
    ]
    if len(set(labels)) < len(groups) or not all(0 < len(x) <= _LABEL_LENGTH for x in labels):
        labels = [", ".join(run.name for run in alike) for alike in groups]
    return labels


def _frozen(config: dict[str, Any], name: str) -> Hashable:
    # repr distinguishes 1, 1.0 and True, which are equal, and a list cannot be hashed.
    return repr(config[name]) if name in config else None


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
