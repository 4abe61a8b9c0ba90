"""Completes prompts, and shows in which call each token was committed.

    python -m diffpo_jax.generate --workdir=runs/sudoku --prompt=0431034232004123

`--prompt` may be given several times.  `--html=FILE` also writes a page on which one can step
through the calls.  The configuration is the run's own unless --config names another, and tokens are
drawn at `config.evaluation.temperature`.  Another sampler, for example top-k in 8 calls:

    python -m diffpo_jax.generate --workdir=runs/sudoku --prompt=0431034232004123 \\
        --config.sampler.rule=top_k --config.sampler.steps=8

A model with a learned threshold uses it unless `--dial` gives a number: γ in nats, or the number of
calls or the probability of another rule.  With a head by state the number is the price of calls, by
default `config.sampler.price`: the higher, the fewer calls.
"""

import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from diffpo_jax.config import command
from diffpo_jax.run import early
from diffpo_jax.system import files

config_flags.DEFINE_config_file(
    "config", None, "Sampler and prompts; by default the configuration of the workdir's run."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run with the checkpoints.")
_PROMPT = flags.DEFINE_multi_string("prompt", [], "A prompt; may be repeated.")
_MODEL = flags.DEFINE_enum("model", "trained", ["trained", "base"], "Which of the run's models.")
_DIAL = flags.DEFINE_float("dial", None, "The rule's number: gamma, calls, probability, price.")
_HTML = flags.DEFINE_string("html", None, "Also write the completions to this file as a page.")


def main(argv: Sequence[str]) -> None:
    config = command.read_config(
        argv, ("workdir", "prompt", "config"), __doc__.splitlines()[2].strip()
    )
    early.check_completions(
        config, _WORKDIR.value, _PROMPT.value, model=_MODEL.value, dial=_DIAL.value
    )
    if _HTML.value:
        files.check_target(_HTML.value, "--html")
    # Imported after these checks, because importing jax takes seconds.
    from diffpo_jax.distributed import chips
    from diffpo_jax.report import decode_order
    from diffpo_jax.run import complete
    from diffpo_jax.system import compilation

    compilation.enable_cache()
    chips.check_devices()
    written = complete.complete(
        config, _WORKDIR.value, _PROMPT.value, model=_MODEL.value, dial=_DIAL.value
    )
    for one in written:
        print(decode_order.as_text(one, colour=sys.stdout.isatty()), end="")
    if _HTML.value:
        from diffpo_jax.report import page

        with files.explained(_HTML.value, "--html"):
            files.write_atomic(_HTML.value, page.completions_page(written))
        print(f"page: {_HTML.value}")


if __name__ == "__main__":
    command.run(main, run_flag="workdir")
