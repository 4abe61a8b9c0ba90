"""Writes a run's model as a directory of safetensors files in the published form.

    python -m diffpo_jax.export --workdir=runs/sudoku --out=DIR

The configuration is the run's own, from its workdir.  Family "tiny" has no published form: its
files carry LLaDA's names and its config.json says model_type "diffpo_jax_tiny".  The threshold
head is not exported.  Beside the weights, lineage.json says what they came from.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from diffpo_jax import cli, config_io
from diffpo_jax.config import Config, MeshConfig
from diffpo_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run with the checkpoints.")
_OUT = flags.DEFINE_string("out", None, "Directory to write; must not exist.")
_MODEL = flags.DEFINE_enum("model", "trained", ["trained", "base"], "Which of the run's models.")
_DTYPE = flags.DEFINE_enum(
    "dtype", "", ["", "float32", "bfloat16"], "Of the files; empty: the parameters' own."
)


def main(argv: Sequence[str]) -> None:
    cli.require(argv, ("workdir", "out"), __doc__.splitlines()[2].strip())
    export(_WORKDIR.value, _OUT.value, model=_MODEL.value, dtype=_DTYPE.value)
    print(f"weights: {_OUT.value}")


def export(path: str, out: str, *, model: str, dtype: str = "") -> None:
    """Writes the model of a run.

    Args:
      path: workdir of the run; it may have been trained on any mesh.
      model: "trained" or "base".

    Raises:
      UserError: no run or no checkpoint there; `out` exists.
    """
    from diffpo_jax import completions, experiment, workdir
    from diffpo_jax.data import tokenizers
    from diffpo_jax.distributed import mesh as mesh_lib
    from diffpo_jax.models import huggingface

    if pathlib.Path(out).exists():  # before the checkpoint is read
        raise UserError(f"{out} exists already: choose another directory, or remove it.")
    config = _config(workdir.Workdir(pathlib.Path(path)))
    mesh = mesh_lib.make_mesh(MeshConfig())
    policy = experiment.make_policy(config, tokenizers.make_tokenizer(config.tokenizer), mesh)
    params = completions.restore(path, model, policy, mesh)
    lineage = {
        "workdir": path,
        "model": model,
        "base": config.init_from or config.model.weights,
        "commit": workdir.commit(),
        "config": json.loads(config_io.to_json(config)),
    }
    huggingface.write(
        pathlib.Path(out), params["denoiser"], config.model, lineage=lineage, dtype=dtype
    )


def _config(workdir) -> Config:
    try:
        return config_io.from_json(workdir.config.read_text())
    except OSError as error:
        raise UserError(f"{workdir.root} holds no run: there is no config.json.") from error


if __name__ == "__main__":
    cli.entry(main)
