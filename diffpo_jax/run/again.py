"""What the command of a finished run does: nothing, or an evaluation with other settings.

Such an evaluation has a directory of its own (`workdir.evaluations`), named after its settings, so
that the same command finds it again.  The run's own report stays as it is.
"""

import json
from typing import Any

from diffpo_jax.analysis import summary as summary_lib
from diffpo_jax.config import Config, convert
from diffpo_jax.distributed import hosts
from diffpo_jax.report import build
from diffpo_jax.report import write as report_lib
from diffpo_jax.run import base_model, frontiers, inputs, points, setup
from diffpo_jax.system import durable
from diffpo_jax.system.progress import say
from diffpo_jax.workdir import checkpoints, digests, evaluations, layout, metrics
from diffpo_jax.workdir import inputs as stored

_SUMMARY = "summary.json"


def finished(workdir: layout.Workdir, config: Config) -> dict[str, Any] | None:
    """The summary of a finished run; None if steps or the report are missing.

    Process 0 decides for all, because on a mounted bucket the others may lag behind.
    """

    def read() -> dict[str, Any] | None:
        whole = (checkpoints.latest_step(workdir.rl) or 0) == config.rl.steps
        return _summary(workdir, config.rl.steps) if whole else None

    return hosts.gather(read() if hosts.is_first() else None)[0]


def go_on(run: layout.Workdir, config: Config, summary: dict[str, Any]) -> dict[str, Any]:
    """Prints the results of a finished run, or of an evaluation of it if its settings differ.

    Args:
      config: the command's; it has no `convert.differences` from the run's.
      summary: the run's.

    Returns:
      The summary of what is printed.

    Raises:
      UserError: what the run read has changed under the same names.
    """
    changes = convert.evaluation_changes(layout.read_config(run), config)
    own, asked = run, evaluations.settings(changes, evaluations.BOTH)
    task = setup.make_task(config, run)
    examples = inputs.of_examples(config, task, inputs.digests(task))
    hosts.in_turn(lambda: inputs.refuse_changes(run, examples))
    if not asked["changes"]:
        _say(f"{run.root} is finished; nothing is left to do.")
    else:
        own = evaluations.paths(run, asked)
        _say(f"{run.root} is finished; evaluation with {evaluations.in_words(asked)}: {own.root}")
        done = _on_these(own, config, examples[inputs.TEST]) if hosts.is_first() else None
        summary = hosts.gather(done)[0] or _evaluate(run, own, asked, config)
    if hosts.is_first():
        print(summary_lib.final_table(summary))
        print(f"report: {own.report}")
    return summary


def _evaluate(
    run: layout.Workdir, own: layout.Workdir, asked: dict[str, Any], config: Config
) -> dict[str, Any]:
    # 1. Prepare it as a run; what it shares with the run must be the same.
    hosts.in_turn(lambda: layout.open_paths(own, config))
    prepared = setup.prepare(config, own)
    hosts.in_turn(lambda: inputs.refuse_changes(run, prepared.inputs))
    if hosts.is_first():
        # Of other test examples; without it a kill leaves an unfinished evaluation.
        durable.remove(own.report / _SUMMARY)
        layout.record(own, config)
        evaluations.record(own, asked)
    inputs.check(own, prepared.inputs)
    # 2. Evaluate both models.
    policy, mesh, kind = prepared.policy, prepared.mesh, config.model.quantized
    base = base_model.read(run.root, policy, mesh, kind)
    hosts.in_turn(lambda: inputs.refuse_changes(run, inputs.of_base(config, base)))
    trained = base_model.restore(str(run.root), "trained", policy, mesh, kind)
    summary, outcomes = frontiers.final_evaluation(prepared, base, trained)
    # 3. Report.
    if hosts.is_first():
        report_lib.write_report(own.report, summary, metrics.read(own.metrics), outcomes)
        digests.record(own)
        points.remove(own)
        build.redraw(run.root)
    return summary


def _on_these(own: layout.Workdir, config: Config, test: stored.Input) -> dict[str, Any] | None:
    """The summary of a finished evaluation on these test examples."""
    summary = _summary(own, config.rl.steps)
    recorded = stored.read(own.inputs).get(inputs.TEST)
    if summary and recorded and recorded.sha256 != test.sha256:
        say(f"note: {own.root.name}: the test examples have changed; it is evaluated again.")
        return None
    return summary


def _summary(workdir: layout.Workdir, steps: int) -> dict[str, Any] | None:
    """The content of summary.json after as many RL steps.

    What today's code cannot show counts as missing: the command writes it again.
    """
    try:
        summary = json.loads((workdir.report / _SUMMARY).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(summary, dict) or not set(summary_lib.FIELDS) <= summary.keys():
        return None
    # Of a run that is being continued the report has fewer steps; older versions did not say.
    if summary.get("steps", steps) != steps:
        return None
    return None if _changed(workdir) else summary


def _changed(workdir: layout.Workdir) -> bool:
    """Whether files changed, after they were written, that an evaluation writes again.

    Others are named alone.
    """
    names = digests.changed(workdir, digests.read(workdir))
    written = ("report/", "samples/test.", workdir.digests.name)
    again = [x for x in names if x.startswith(written)]
    if lost := [x for x in names if x not in again]:
        say(f"warning: {workdir.root}: {', '.join(lost)} changed after the run had ended.")
    if again:
        say(f"note: {workdir.root}: {', '.join(again)} changed; it is evaluated again.")
    return bool(again)


def _say(text: str) -> None:
    if hosts.is_first():
        say(text)
