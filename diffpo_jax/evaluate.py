"""Evaluates a published model, or the model of a run, on a task's test split without training.

    python -m diffpo_jax.evaluate --config=configs/gsm8k.py:llada_8b,d1 --out=runs/llada-gsm8k

`--model` names other weights, a directory or a name on the hub.  `--run=WORKDIR` takes the model of
a run instead (with `--which=base` the model before RL), also at the threshold it learned, if any.
The configuration decides sampler, lengths, grid and subset, for example by
--config.sampler.rule=confidence --config.evaluation.confidences=0.9 .  d1's settings are the preset
d1 with --config.task.protocol=d1 and --config.sampler.length=128, 256 or 512.

OUT gets config.json, run_info.json, evaluation.json, and in samples/ a file of completions and
verdicts for each point.  The same command again resumes after the last complete point.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from diffpo_jax.config import command
from diffpo_jax.system.errors import UserError

config_flags.DEFINE_config_file("config", None, "Task, sampler and evaluation.")
_OUT = flags.DEFINE_string("out", None, "Directory for the results.")
_WEIGHTS = flags.DEFINE_string("model", None, "Published weights; default: config.model.weights.")
_RUN = flags.DEFINE_string("run", None, "A workdir, to take the model of its run instead.")
_WHICH = flags.DEFINE_enum("which", "trained", ["trained", "base"], "Which of the run's models.")


def main(argv: Sequence[str]) -> None:
    config = command.read_config(argv, ("config", "out"), __doc__.splitlines()[2].strip())
    from diffpo_jax.run import score
    from diffpo_jax.system import compilation
    from diffpo_jax.workdir import lock

    compilation.enable_cache()
    if _WEIGHTS.value and _RUN.value:
        raise UserError("--model and --run name two models; give only one of them.")
    if _WEIGHTS.value:
        model = dataclasses.replace(config.model, weights=_WEIGHTS.value)
        config = dataclasses.replace(config, model=model)
    with lock.hold(_OUT.value, "--out"):
        result = score.score(config, _OUT.value, run=_RUN.value or "", which=_WHICH.value)
    print(score.table(result))
    print(f"results: {pathlib.Path(_OUT.value) / 'evaluation.json'}")


if __name__ == "__main__":
    command.run(main)
