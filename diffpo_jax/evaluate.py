"""Evaluates a published model, or the model of a run, on a task's test split without training.

    python -m diffpo_jax.evaluate --config=configs/gsm8k.py:llada_8b,d1 --out=runs/llada-gsm8k

`--model` names other weights, a directory or a name on the hub.  `--run=WORKDIR` takes the model of
a run instead (with `--which=base` the model before RL), also at the threshold it learned, if any.
The configuration is then the run's own unless --config names another:

    python -m diffpo_jax.evaluate --run=runs/sudoku --config.sampler.rule=confidence \\
        --config.evaluation.confidences=0.9,

The configuration decides sampler, lengths, grid and subset.  d1's settings are the preset d1 with
--config.task.protocol=d1 and --config.sampler.length=128, 256 or 512.

OUT gets config.json, run_info.json, evaluation.json, and in samples/ a file of completions and
verdicts for each point.  By default it is a directory of the run, WORKDIR/evaluations/NAME, which
the run's page lists.  The same command again resumes after the last complete point.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from diffpo_jax.config import command, convert
from diffpo_jax.evaluation import threshold_choice
from diffpo_jax.run import early
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import evaluations, layout, lock

config_flags.DEFINE_config_file(
    "config", None, "Task, sampler and evaluation; by default those of --run."
)
_OUT = flags.DEFINE_string(
    "out", None, "Directory for the results; by default evaluations/NAME in the workdir of --run."
)
_WEIGHTS = flags.DEFINE_string("model", None, "Published weights; default: config.model.weights.")
_RUN = flags.DEFINE_string("run", None, "A workdir, to take the model of its run instead.")
_WHICH = flags.DEFINE_enum("which", "trained", ["trained", "base"], "Which of the run's models.")


def main(argv: Sequence[str]) -> None:
    required = ("config",) if _RUN.value else ("config", "out")
    config = command.read_config(argv, required, __doc__.splitlines()[2].strip())
    if _WEIGHTS.value and _RUN.value:
        raise UserError("--model and --run name two models; give only one of them.")
    if _WEIGHTS.value:
        model = dataclasses.replace(config.model, weights=_WEIGHTS.value)
        config = dataclasses.replace(config, model=model)
    out, asked, source = _OUT.value, None, _RUN.value or ""
    if source:
        run = layout.Workdir(pathlib.Path(source))
        recorded = layout.read_config(run)
        threshold_choice.check_head(recorded, config.sampler.rule, _WHICH.value)
        changes = convert.evaluation_changes(recorded, config)
        asked = evaluations.settings(changes, _WHICH.value)
    if not out:
        own = evaluations.paths(run, asked)
        # The name stands for the settings, however the run is called this time.
        source, out, task = str(run.root.resolve()), str(own.root), config.task
        data_dir = task.data_dir or str(own.data)
        config = dataclasses.replace(config, task=dataclasses.replace(task, data_dir=data_dir))
    files.check_target(out, "--out", directory=True)
    early.check_task(config.task, pathlib.Path(out) / "data")
    # Imported after these checks, because importing jax takes seconds.
    from diffpo_jax.distributed import chips
    from diffpo_jax.report import build
    from diffpo_jax.run import score
    from diffpo_jax.system import compilation

    compilation.enable_cache()
    chips.check_devices()
    with lock.hold(out, "--out"):
        if not _OUT.value:
            own.config.unlink(missing_ok=True)
        result = score.score(config, out, run=source, which=_WHICH.value)
        if not _OUT.value:
            evaluations.record(own, asked)
    print(score.table(result))
    print(f"results: {pathlib.Path(out) / 'evaluation.json'}")
    if not _OUT.value:
        build.redraw(run.root)


if __name__ == "__main__":
    command.run(main, run_flag="run", outlives_readers=True)
