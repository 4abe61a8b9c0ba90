"""The content of a report, in order: sections of sentences, figures, tables and completions."""

from collections.abc import Sequence
from typing import NamedTuple

from diffpo_jax.analysis.groups import Group, by_arm, by_settings, by_task, keep_runs, only_run
from diffpo_jax.analysis.runs import Run, Study
from diffpo_jax.report import (
    curves,
    decode_order,
    examples,
    outcomes,
    run_tables,
    study_figures,
    tables,
    verdict,
    words,
)
from diffpo_jax.report.examples import Example
from diffpo_jax.report.picture import Picture
from diffpo_jax.report.tables import Table


class Section(NamedTuple):
    """A part of the page under its own heading; an empty one is not shown."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    examples: Sequence[Example] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.paragraphs or self.tables or self.pictures or self.examples)


class Report(NamedTuple):
    """The content of a whole page."""

    title: str
    subtitle: str
    sections: list[Section]

    @property
    def pictures(self) -> list[Picture]:
        return [picture for section in self.sections for picture in section.pictures]


def report_runs(runs: Sequence[Run]) -> Report:
    """Reports one run, or several in groups that differ in the seed alone, task by task."""
    if len(runs) == 1:
        run = runs[0]
        subtitle = (
            f"Task {run.task}, method {run.config['method']}, mode {run.config['mode']}, seed "
            f"{run.seed}.{'' if run.summary else ' Not finished.'}"
        )
        summary = Section("Summary", words.describe_run(run), run_tables.results(run))
        again = Section("Other evaluations", tables=run_tables.evaluations(run))
        sections = [summary, *_figures([Group(run.name, [run])]), again, *_end(runs)]
        return Report(f"Run {run.name}", subtitle, sections)
    groups = by_settings(runs)
    going = sum(run.summary is None for run in runs)
    unfinished = f", {going} of them not finished" if going else ""
    subtitle = f"{len(runs)} runs in {len(groups)} settings{unfinished}."
    several = len({run.task for run in runs}) > 1
    return Report("Runs compared", subtitle, [*_tasks(groups, several), *_end(runs)])


def report_study(study: Study) -> Report:
    """Reports a study: its own tables and figures, the list of its runs, and its runs by arm."""
    states = [entry.state for entry in study.runs]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    subtitle = f"A study of {len(study.runs)} runs: {', '.join(counts)}."
    shown = [entry for entry in study.runs if entry.run is not None]
    working = [entry.run for entry in shown if entry.state != "failed"]
    arms = by_arm(working, [entry.arm for entry in study.runs])
    several = len({entry.task for entry in study.runs}) > 1
    sections = [_study_results(study, arms), _study_runs(study), *_tasks(arms, several)]
    return Report(study.title, subtitle, [*sections, *_end([entry.run for entry in shown])])


def _study_results(study: Study, arms: Sequence[Group]) -> Section:
    own = [tables.from_json(table) for table in study.results.get("tables", [])]
    finished = keep_runs(arms, lambda run: run.summary)
    pictures = [study_figures.final(finished)] if finished else []
    return Section("Results", (), own, pictures)


def _study_runs(study: Study) -> Section:
    rows = [
        (entry.id, entry.task, entry.arm, entry.seed, entry.state, entry.error or None)
        for entry in study.runs
    ]
    failed = sum(entry.state == "failed" for entry in study.runs)
    notes = []
    if failed:
        notes.append(f"{failed} failed: they are listed here, and are in no figure and no mean.")
    if any(entry.error and entry.state == "done" for entry in study.runs):
        notes.append("If a run is done but cannot be read, the last column says why.")
    columns = ("run", "task", "arm", "seed", "state", "error")
    return Section("The study's runs", notes, [Table("", columns, rows)])


def _tasks(groups: Sequence[Group], several: bool) -> list[Section]:
    """Returns the sections of several runs, task by task; titles name the task if `several`."""
    result = []
    for task, members in by_task(groups).items():
        summary, points = words.describe_groups(members), run_tables.learned_points(members)
        for section in (Section("Summary", summary, points), *_figures(members)):
            if several:
                prefix = tables.file_part(task)
                pictures = [p._replace(name=f"{prefix}_{p.name}") for p in section.pictures]
                section = section._replace(title=f"{section.title}: {task}", pictures=pictures)
            result.append(section)
    return result


def _figures(groups: Sequence[Group]) -> list[Section]:
    runs = [run for group in groups for run in group.runs]
    single = only_run(groups)
    shown = examples.choose_examples(single) if single else examples.choose_common_example(groups)
    frontier_table = run_tables.frontier(single) if single else ()
    order = _describe_order(runs, shown)
    return [
        Section("Frontier", (), frontier_table, outcomes.frontiers(groups)),
        Section("Difficulty of the prompt", pictures=outcomes.by_difficulty(groups)),
        Section("Learning curves", pictures=curves.learning(groups)),
        Section("Signs of trouble", verdict.describe(runs), pictures=curves.warning_signs(groups)),
        Section("Calls per prompt", pictures=outcomes.calls_histogram(groups)),
        Section(
            "Surrogate against sampler", _describe_weights(runs), pictures=curves.by_call(groups)
        ),
        Section("Decode order", order, examples=shown),
    ]


def _describe_weights(runs: Sequence[Run]) -> list[str]:
    logged = any("weights/ess" in row for run in runs for row in run.rl)
    if logged and all(run.config["rl.objective.weights"] == "none" for run in runs):
        return ["The weights are measured; the loss of these runs does not use them."]
    return []


def _describe_order(runs: Sequence[Run], shown: Sequence[Example]) -> list[str]:
    if not any(run.samples for run in runs):
        return []
    if not shown:
        return [
            "The samples of these runs do not say which text each token is, or have no prompt in "
            "common. The command `generate` shows the order for any prompt."
        ]
    name = runs[0].samples_name
    source = "Test answers" if name == "test" else f"Rollouts ({name})"
    text = f"{source}. {decode_order.HELP}"
    if len(runs) > 1:
        text += " Each setting's first run answers the same prompt, of a median number of calls."
    return [text]


def _end(runs: Sequence[Run]) -> list[Section]:
    if not runs:
        return []
    warnings, origin = run_tables.lineage(runs)
    return [
        Section("Configuration", tables=run_tables.configuration(runs)),
        Section("Lineage", warnings, [*origin, *run_tables.cost(runs)]),
    ]
