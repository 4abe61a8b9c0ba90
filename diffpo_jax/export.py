"""Writes a run's model as a directory of safetensors files in the published form.

    python -m diffpo_jax.export --workdir=runs/sudoku --out=DIR

The configuration is the run's own, from its workdir.  What RL trained through an adapter
(`config.lora`) is merged; with --adapter the adapter alone is written, as PEFT reads it.  Where the
run began from published weights, their config.json, tokenizer and code are copied.  Family "tiny"
has no published form: its files carry LLaDA's names and its config.json says model_type
"diffpo_jax_tiny".  The threshold head is not exported.  Beside the weights, lineage.json says what
they came from.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from diffpo_jax import cli, config_io
from diffpo_jax.config import MeshConfig
from diffpo_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run with the checkpoints.")
_OUT = flags.DEFINE_string("out", None, "Directory to write; must not exist.")
_MODEL = flags.DEFINE_enum("model", "trained", ["trained", "base"], "Which of the run's models.")
_ADAPTER = flags.DEFINE_bool("adapter", False, "Write the adapter alone, for PEFT.")
_DTYPE = flags.DEFINE_enum(
    "dtype", "", ["", "float32", "bfloat16"], "Of the files; empty: the parameters' own."
)


def main(argv: Sequence[str]) -> None:
    cli.require(argv, ("workdir", "out"), __doc__.splitlines()[2].strip())
    export(
        _WORKDIR.value,
        _OUT.value,
        model=_MODEL.value,
        dtype=_DTYPE.value,
        adapter=_ADAPTER.value,
    )
    print(f"weights: {_OUT.value}")


def export(path: str, out: str, *, model: str, dtype: str = "", adapter: bool = False) -> None:
    """Writes the model of a run.

    Args:
      path: workdir of the run; it may have been trained on any mesh.
      model: "trained" or "base".
      adapter: the adapter alone.

    Raises:
      UserError: no run, no checkpoint or no adapter there; `out` exists.
    """
    from diffpo_jax import base, completions, run_setup, workdir
    from diffpo_jax.data import tokenizers
    from diffpo_jax.distributed import mesh as mesh_lib
    from diffpo_jax.models import huggingface, lora, peft

    directory = pathlib.Path(out)
    if directory.exists():  # before the checkpoint is read
        raise UserError(f"{out} exists already: choose another directory, or remove it.")
    config = workdir.config_of(workdir.Workdir(pathlib.Path(path)))
    if adapter and not (config.lora.rank and model == "trained" and config.mode != "sampler"):
        raise UserError(f"--adapter: {path} trained none (config.lora.rank is 0 there).")
    mesh = mesh_lib.make_mesh(MeshConfig())
    policy = run_setup.make_policy(config, tokenizers.make_tokenizer(config.tokenizer), mesh)
    params = completions.restore(path, model, config, policy, mesh)
    weights = base.weights_of(config)
    source = huggingface.locate(weights) if weights else None
    lineage = {
        "workdir": path,
        "model": model,
        "base": weights or config.init_from,
        "base_sha256": huggingface.fingerprint(source) if source else "",
        "commit": workdir.commit(),
        "config": json.loads(config_io.to_json(config)),
    }
    if adapter:
        of = {"base": lineage["base"], "lineage": lineage}
        peft.write(directory, params["adapter"], config.lora, config.model.family, **of)
        return
    denoiser = params["denoiser"]
    if "adapter" in params:
        denoiser = lora.merge(denoiser, params["adapter"], config.lora)
    huggingface.write(
        directory, denoiser, config.model, lineage=lineage, source=source, dtype=dtype
    )


if __name__ == "__main__":
    cli.entry(main)
