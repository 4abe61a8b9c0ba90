"""Which runs belong together: those that differ in their seed alone."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from diffpo_jax.analysis.runs import Run, StudyRun
from diffpo_jax.config import METHODS

# What cannot change what is measured; the base model is the seed's own.
_APART = ("seed", "init_from", "task.data_dir", "evaluation.batch", "evaluation.every")
_SECTIONS_APART = ("mesh.", "logging.", "checkpoint.")
_WORDS = 40  # characters of a label that is made of fields


class Group(NamedTuple):
    """Runs that a figure shows as one."""

    label: str
    runs: list[Run]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


def by_settings(runs: Sequence[Run]) -> list[Group]:
    """Runs in groups that differ in the seed alone, in the order of their first.

    Each seed may begin from its own base model.  Where a seed occurs twice with two of them, the
    base model is a setting like another.
    """
    groups = []
    for alike in _gathered(runs, lambda run: _settings(run, _APART)):
        twice = len({run.seed for run in alike}) < len(alike)
        apart = tuple(name for name in _APART if name != "init_from") if twice else _APART
        groups += _gathered(alike, lambda run, apart=apart: _settings(run, apart))
    labels = _labels(groups)
    return [Group(label, alike) for label, alike in zip(labels, groups)]


def by_arm(runs: Sequence[StudyRun]) -> list[Group]:
    """The runs of a study that can be read and have not failed, by arm."""
    shown = [one for one in runs if one.run is not None and one.state != "failed"]
    return [
        Group(alike[0].arm, [one.run for one in alike])
        for alike in _gathered(shown, lambda one: one.arm)
    ]


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the fields that are not the same in all; one that is missing differs."""
    names = sorted(set().union(*configs))
    return [name for name in names if len({_frozen(c, name) for c in configs}) > 1]


def _settings(run: Run, apart: Sequence[str]) -> Hashable:
    return tuple((name, _frozen(run.config, name)) for name in _kept(run.config, apart))


def _kept(config: dict[str, Any], apart: Sequence[str]) -> list[str]:
    """The names of the fields that decide what is measured."""
    unread = ("pretrain.",) if config["init_from"] else ()  # the base is another run's
    sections = (*_SECTIONS_APART, *unread)
    return sorted(n for n in config if n not in apart and not n.startswith(sections))


def _gathered(items: Iterable[Any], key: Callable[[Any], Hashable]) -> list[list[Any]]:
    found: dict[Hashable, list[Any]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """What sets each group apart where that is short, otherwise the names of its runs."""
    firsts = [alike[0].config for alike in groups]
    kept = [{name: c[name] for name in _kept(c, _APART)} for c in firsts]
    names = [name for name in differing(kept) if any(c.get(name) for c in kept)]
    if "method" in names:  # which says what it decides
        decided = METHODS["diffpo"].keys()
        names = [name for name in names if name.rpartition(".")[2] not in decided]
    labels = [
        ", ".join(f"{name.rpartition('.')[2]} {_short(c.get(name))}" for name in names)
        for c in firsts
    ]
    if len(set(labels)) < len(groups) or not all(0 < len(label) <= _WORDS for label in labels):
        labels = [", ".join(run.name for run in alike) for alike in groups]
    return labels


def _frozen(config: dict[str, Any], name: str) -> Hashable:
    # repr tells 1 from 1.0 and True, which compare as equal, and a list has no hash.
    return repr(config[name]) if name in config else None


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
