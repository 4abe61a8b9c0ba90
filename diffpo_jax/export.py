"""Writes a run's model as a directory of safetensors files, in the form of published models.

    python -m diffpo_jax.export --workdir=runs/sudoku --out=DIR

The configuration is the run's own, from its workdir.  An adapter that RL trained (`config.lora`) is
merged; --adapter writes the adapter alone, in the form that PEFT reads.  If the run began from
published weights, their config.json, tokenizer and code are copied.  Family "tiny" has no published
form: its files have LLaDA's names, its config.json says model_type "diffpo_jax_tiny", and its
network in PyTorch and its tokenizer are written too.  lineage.json, beside the weights, says where
they came from, and README.md is a model card.

sampler.json, sampler_head.safetensors and custom_generate/generate.py are the run's sampler, with
what it learned, for PyTorch (docs/models.md); with --model=base it is the base's fixed rule.  What
this code cannot do, such as a KV cache, is said in a line, and the sampler is left out.
"""

from collections.abc import Sequence

from absl import flags

from diffpo_jax.config import command
from diffpo_jax.run import early

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run with the checkpoints.")
_OUT = flags.DEFINE_string("out", None, "Directory to write; must not exist.")
_MODEL = flags.DEFINE_enum("model", "trained", ["trained", "base"], "Which of the run's models.")
_ADAPTER = flags.DEFINE_bool("adapter", False, "Write the adapter alone, for PEFT.")
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "",
    ["", "float32", "bfloat16"],
    "Type of the numbers in the files; empty for the parameters' own.",
)


def main(argv: Sequence[str]) -> None:
    command.require_flags(argv, ("workdir", "out"), __doc__.splitlines()[2].strip())
    early.check_export(_WORKDIR.value, _OUT.value)
    # Imported after these checks, because importing jax takes seconds.
    from diffpo_jax.distributed import chips
    from diffpo_jax.run import export

    chips.check_devices()
    sampler = export.export(
        _WORKDIR.value,
        _OUT.value,
        model=_MODEL.value,
        dtype=_DTYPE.value,
        adapter=_ADAPTER.value,
    )
    print(f"weights: {_OUT.value}")
    if sampler:
        print(f"sampler: {sampler}")


if __name__ == "__main__":
    command.run(main, outlives_readers=True)
