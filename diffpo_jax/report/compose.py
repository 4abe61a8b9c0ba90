"""What a report shows, in its order: sections of words, tables, figures and completions."""

from collections.abc import Sequence
from typing import NamedTuple

from diffpo_jax.analysis.groups import Group, by_arm, by_settings
from diffpo_jax.analysis.runs import Run, Study
from diffpo_jax.report import curves, examples, lineage, outcomes, words
from diffpo_jax.report.examples import Example
from diffpo_jax.report.picture import Picture
from diffpo_jax.report.tables import Table, file_part


class Section(NamedTuple):
    """A part of the page under a heading of its own; what is empty is not shown."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    examples: Sequence[Example] = ()
    columns: int = 0  # tokens to a line of the examples; 0: running text
    images: Sequence[tuple[str, bytes]] = ()  # figures that are there as files: name, content

    @property
    def empty(self) -> bool:
        return not (self.paragraphs or self.tables or self.pictures or self.examples or self.images)


class Report(NamedTuple):
    """A whole page."""

    title: str
    says: str  # one line below the title
    sections: list[Section]

    @property
    def pictures(self) -> list[Picture]:
        return [picture for section in self.sections for picture in section.pictures]


def of_runs(runs: Sequence[Run]) -> Report:
    """One run, or several in groups that differ in the seed alone; a part for each task."""
    if len(runs) == 1:
        run = runs[0]
        task = run.config["task.name"]
        says = f"Task {task}, method {run.config['method']}, mode {run.config['mode']}, "
        says += f"seed {run.seed}." + ("" if run.summary else " Not finished.")
        groups = [Group(run.name, [run])]
        return Report(f"Run {run.name}", says, [*_of_one(run), *_figures(groups), *_end(runs)])
    groups = by_settings(runs)
    going = sum(run.summary is None for run in runs)
    says = f"{len(runs)} runs in {len(groups)} settings"
    says += f", {going} of them not finished." if going else "."
    return Report("Runs compared", says, [*_parts(groups), *_end(runs)])


def of_study(study: Study) -> Report:
    """A study: its own tables and figures first, then every run, then the runs by arm."""
    states = [one.state for one in study.runs]
    counted = [f"{states.count(s)} {s}" for s in dict.fromkeys(states)]
    own, listed = _own(study), _listed(study)
    parts, tasks = [], list(dict.fromkeys(one.task for one in study.runs))
    for task in tasks:
        groups = by_arm([one for one in study.runs if one.task == task])
        parts += _part(groups, task if len(tasks) > 1 else "")
    shown = [one.run for one in study.runs if one.run is not None]
    says = f"A study of {len(study.runs)} runs: {', '.join(counted)}."
    return Report(study.title, says, [*own, listed, *parts, *_end(shown)])


def _own(study: Study) -> list[Section]:
    tables = [
        Table(str(t.get("title", "")), t["columns"], t["rows"], str(t.get("note") or ""))
        for t in study.results.get("tables", [])
    ]
    images, missing = [], []
    for name in study.results.get("figures", []):
        file = study.path / "report" / str(name)
        inside = file.parent == study.path / "report" and file.suffix in (".svg", ".png")
        if inside and file.is_file():
            images.append((file.name, file.read_bytes()))
        else:
            missing.append(f"The figure {name} is not in the study's report directory.")
    section = Section(str(study.results.get("title") or "Results"), missing, tables, images=images)
    return [] if section.empty else [section]


def _listed(study: Study) -> Section:
    rows = [
        (one.id, one.task, one.arm, one.seed, one.state, one.error or None) for one in study.runs
    ]
    failed = sum(one.state == "failed" for one in study.runs)
    said = []
    if failed:
        said.append(f"{failed} failed: they are listed here and are in no figure and no mean.")
    if any(one.error and one.state == "done" for one in study.runs):
        said.append("Of a run that is done but cannot be read, the last column says why.")
    columns = ("run", "task", "arm", "seed", "state", "error")
    return Section("The study's runs", said, [Table("", columns, rows)])


def _parts(groups: Sequence[Group]) -> list[Section]:
    tasks = list(dict.fromkeys(group.runs[0].config["task.name"] for group in groups))
    sections = []
    for task in tasks:
        of_task = [g for g in groups if g.runs[0].config["task.name"] == task]
        sections += _part(of_task, task if len(tasks) > 1 else "")
    return sections


def _part(groups: Sequence[Group], task: str) -> list[Section]:
    """The sections of several runs of one task; with several tasks its name is in the titles."""
    if not groups:
        return []
    summary = Section("Summary", words.of_several(groups), words.points(groups))
    found = [summary, *_figures(groups, prefix=f"{file_part(task)}_" if task else "")]
    return [s._replace(title=f"{s.title}: {task}" if task else s.title) for s in found]


def _of_one(run: Run) -> list[Section]:
    return [Section("Summary", words.of_one(run), words.in_numbers(run))]


def _figures(groups: Sequence[Group], prefix: str = "") -> list[Section]:
    runs = [run for group in groups for run in group.runs]
    alone = len(runs) == 1
    seen = examples.of_one(runs[0]) if alone else examples.of_several(groups)
    sections = [
        Section("Learning curves", (), (), curves.learning(groups)),
        Section("Signs of trouble", (), (), [*curves.watched(groups), *curves.pretraining(groups)]),
        Section(
            "Frontier",
            (),
            words.compared(runs[0]) if alone else (),
            outcomes.frontiers(groups),
        ),
        Section("Difficulty of the prompt", (), (), outcomes.by_difficulty(groups)),
        Section("Calls a prompt takes", (), (), outcomes.calls(groups)),
        Section(
            "How far the surrogate is from the sampler",
            _surrogate_words(runs),
            (),
            [
                *curves.by_call(groups, "kl/token", "kl_by_call", "KL by call", "nats a token"),
                *curves.by_call(
                    groups,
                    "weights/ess",
                    "weights_ess",
                    "Effective sample size of the importance weights",
                    "% of the tokens",
                    100.0,
                ),
                *curves.by_call(
                    groups,
                    "weights/truncated",
                    "weights_truncated",
                    "Weights above the cap",
                    "% of the tokens",
                    100.0,
                ),
            ],
        ),
        Section(
            "Decode order",
            _order_words(runs, seen),
            examples=seen,
            columns=examples.grid_columns(runs[0]),
        ),
    ]
    kept = [section for section in sections if not section.empty]
    return [
        s._replace(pictures=[p._replace(name=prefix + p.name) for p in s.pictures]) for s in kept
    ]


def _surrogate_words(runs: Sequence[Run]) -> list[str]:
    if not any("weights/ess" in row for run in runs for row in run.rl):
        return []
    used = sorted({str(run.config["rl.objective.weights"]) for run in runs})
    if used == ["none"]:
        return ["The weights are measured; the loss of these runs does not use them."]
    return []


def _order_words(runs: Sequence[Run], seen: Sequence[Example]) -> list[str]:
    if not any(run.samples for run in runs):
        return []
    if not seen:
        return [
            "The samples of these runs do not say which text each token is, or have no prompt in "
            "common; the command generate shows the order for any prompt."
        ]
    where = "test answers" if runs[0].samples_of == "test" else f"rollouts ({runs[0].samples_of})"
    told = f"From the {where}. Blue tokens were committed by early calls of the denoiser, red ones "
    told += "by late calls; the slider goes back to what was there after a call."
    if len(runs) > 1:
        told += " One prompt, of median calls for the first setting, by the first run of each."
    return [told]


def _end(runs: Sequence[Run]) -> list[Section]:
    if not runs:
        return []
    said, tables = lineage.lineage(runs)
    return [
        Section("Configuration", (), lineage.configuration(runs)),
        Section("Lineage", said, [*tables, *words.cost(runs)]),
    ]
