"""A run from top to bottom: data, base model, RL, both frontiers, report.

Each stage resumes from what is on disk; whatever is computed again comes out the same.  A finished
run is not touched any more: see `again`.
"""

import contextlib
import dataclasses
import pathlib
from typing import Any

from diffpo_jax.analysis import summary as summary_lib
from diffpo_jax.arrays.types import Params
from diffpo_jax.config import Config, check, convert
from diffpo_jax.distributed import hosts, sharding
from diffpo_jax.report import write as report_lib
from diffpo_jax.run import (
    again,
    base_model,
    frontiers,
    inputs,
    outline,
    points,
    setup,
    stage,
    train_rl,
    weights,
)
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.progress import say
from diffpo_jax.workdir import checkpoints, digests, layout, lock, metrics, provenance

_PREFLIGHT_SECONDS = 300.0  # hosts of a large slice start at different speeds


def run(
    config: Config,
    path: str,
    *,
    overwrite: bool = False,
    base_only: bool = False,
    verbose: bool = False,
) -> dict[str, Any]:
    """Runs or resumes an experiment in a workdir.

    Args:
      overwrite: whether to remove another run that is there first.
      base_only: whether to end with the base model.
      verbose: whether to print every parameter's shape, sharding and size.

    Returns:
      The summary, as in report/summary.json of the run, or of its evaluation if the run is
      finished and the settings of the evaluation differ; empty with `base_only`.

    Raises:
      UserError: anything the user can mend; nothing that was on disk is lost.
    """
    # 1. Check everything that can be checked before any work.
    layout.check_path(path)
    config = setup.with_weights(config)
    check.check_training(config)
    text, commit = convert.to_json(config), provenance.commit()
    hosts.preflight(pathlib.Path(path), text, commit, _PREFLIGHT_SECONDS)
    with contextlib.ExitStack() as stack:
        # The first host holds the workdir; if it cannot, all hosts stop.
        hosts.in_turn(lambda: stack.enter_context(lock.hold(path)) if hosts.is_first() else None)
        workdir = hosts.in_turn(
            lambda: layout.open_workdir(path, config, overwrite=overwrite and hosts.is_first())
        )
        summary = None if base_only else again.finished(workdir, config)
        if summary is not None:
            return again.go_on(workdir, config, summary)
        _check_parts(workdir, config)
        run_setup = setup.prepare(config, workdir)
        config = dataclasses.replace(config, tokenizer=run_setup.config.tokenizer)
        inputs.check(workdir, run_setup.inputs)
        if hosts.is_first():
            say(outline.describe(run_setup, base_only=base_only))
            if verbose:
                say(sharding.table(run_setup.parameters))
        return _run(run_setup, config, base_only)


def _run(run_setup: setup.Setup, config: Config, base_only: bool) -> dict[str, Any]:
    workdir = run_setup.workdir
    # 2. Train.
    with run_setup.writer:
        if base_only:
            _checked(run_setup, _make_base(run_setup, config))
            return {}
        # The base model is not bound to a name here, so that RL can free its arrays.
        trained = train_rl.train(run_setup, _checked(run_setup, _make_base(run_setup, config)))
    # 3. Evaluate both models.  The base model is read again: no device holds it while RL runs.
    base = base_model.read(workdir.root, run_setup.policy, run_setup.mesh, config.model.quantized)
    summary, outcomes = frontiers.final_evaluation(run_setup, base, trained)
    # 4. Report.
    if hosts.is_first():
        lines = _lines(workdir)
        report_lib.write_report(workdir.report, summary, lines, outcomes)
        digests.record(workdir)
        points.remove(workdir)
        print(summary_lib.final_table(summary))
        print(f"report: {workdir.report}")
    return summary


def _lines(workdir: layout.Workdir) -> list[dict[str, Any]]:
    return metrics.read(workdir.metrics) if workdir.metrics.exists() else []


def _check_parts(workdir: layout.Workdir, config: Config) -> None:
    """Raises `UserError` if a run has lost a part that it cannot go on, or end, without."""
    rl, last = checkpoints.latest_step(workdir.rl), config.pretrain.steps
    base = checkpoints.latest_step(workdir.base)
    if rl is None and base is None:
        return
    if last and not config.init_from:
        stage.check_base(workdir, last, base)
    lines = _lines(workdir)
    if rl == config.rl.steps and not any(line["stage"] == setup.RL for line in lines):
        raise UserError(
            f"{workdir.metrics} has no line of RL, from which the report takes calls and times, "
            f"though {workdir.rl} is at its last step. Put the file back, or start over with "
            "--overwrite."
        )
    if not lines:
        say(f"warning: {workdir.metrics} is empty or missing; curves and times begin here.")


def _checked(own: setup.Setup, base: Params) -> Params:
    """The base model, which is checked before RL has begun."""
    if checkpoints.latest_step(own.workdir.rl) is None:
        weights.check(own, base)
    return base


def _make_base(own: setup.Setup, config: Config) -> Params:
    # Another run's base is read first: if there is none, this run has not begun.
    if not config.init_from:
        setup.record(own, config)
    base = base_model.make(own)
    if config.init_from:
        setup.record(own, config)
    inputs.check(own.workdir, inputs.of_base(own.config, base))
    return base
