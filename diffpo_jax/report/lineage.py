"""Tables of what a run was set to, and of what it was made with."""

import shlex
from collections.abc import Sequence
from typing import Any

from diffpo_jax.analysis import settings
from diffpo_jax.analysis.groups import differing
from diffpo_jax.analysis.runs import Run
from diffpo_jax.report.tables import Table

_HASH = 12  # characters of a commit that are shown


def configuration(runs: Sequence[Run]) -> list[Table]:
    """Every field of every run: of one run those that were set first, of several what differs."""
    if len(runs) == 1:
        return _of_one(runs[0])
    names = differing([run.config for run in runs])
    tables = []
    if names:
        rows = [(run.name, *(_text(run.config.get(name)) for name in names)) for run in runs]
        unread = any(n.startswith("pretrain.") for n in names) and all(_started(r) for r in runs)
        note = "These runs began from the base model of another, so pretrain was not used."
        tables.append(Table("What differs", ("run", *names), rows, note if unread else ""))
    first = runs[0].config
    same = {name: value for name, value in first.items() if name not in names}
    return tables + _set_and_not(same, settings.defaults_of(first), "all runs")


def lineage(runs: Sequence[Run]) -> tuple[list[str], list[Table]]:
    """Code, packages, machine, command and base model, and a warning where they are not one."""
    rows, commands = [], []
    for run in runs:
        info, versions = run.info, run.info.get("versions", {})
        machine = [info.get("machine"), f"{info['cores']} cores" if "cores" in info else None]
        rows.append(
            (
                run.name,
                str(info.get("commit", ""))[:_HASH] + ("+" if _changed(info) else ""),
                info.get("python", ""),
                ", ".join(f"{name} {number}" for name, number in versions.items()),
                ", ".join(str(part) for part in machine if part),
                info.get("mesh", ""),
                run.config["init_from"] or "its own pretraining",
            )
        )
        if info.get("command"):
            words = [shlex.quote(str(word)) for word in info["command"]]
            commands.append((run.name, " \\\n  ".join(words)))
    columns = ("run", "commit", "Python", "packages", "machine", "mesh", "base model from")
    said = []
    if len({run.info.get("commit") for run in runs}) > 1:
        said.append("The runs are of different commits.")
    if any(_changed(run.info) for run in runs):
        said.append("+ after a commit: files differed from it.")
    if absent := [run.name for run in runs if not run.info]:
        said.append(f"Without run_info.json: {', '.join(absent)}.")
    tables = [Table("", columns, rows)]
    if commands:
        tables.append(Table("Command lines", ("run", "command"), commands, folded=len(runs) > 1))
    return said, tables


def _of_one(run: Run) -> list[Table]:
    return _set_and_not(run.config, settings.defaults_of(run.config), "the run")


def _set_and_not(config: dict[str, Any], defaults: dict[str, Any], whose: str) -> list[Table]:
    changed = [name for name in config if name not in defaults or config[name] != defaults[name]]
    rows = [(name, _text(config[name]), _text(defaults.get(name))) for name in changed]
    rest = [(name, _text(value)) for name, value in config.items() if name not in changed]
    note = "Defaults are those of the run's method and commit rule."
    return [
        Table(f"Set for {whose}", ("field", "value", "default"), rows, note),
        Table(f"At their defaults: {len(rest)} fields", ("field", "value"), rest, folded=True),
    ]


def _started(run: Run) -> bool:
    return bool(run.config["init_from"])


def _changed(info: dict[str, Any]) -> bool:
    return str(info.get("commit", "")).endswith("+")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "(none)"
    if value == "":
        return "(empty)"
    return "none" if value is None else str(value)
