"""Serves a run's models on this machine: a page to try them on, and an OpenAI-compatible endpoint.

    python -m diffpo_jax.serve --workdir=runs/sudoku

The page shows how the trained and the base model complete a prompt, call by call, at any γ, or
price of calls.  The endpoint, under /v1, takes requests in the form of OpenAI's API; those that
come while others run share their calls (docs/serving.md).  The configuration is the run's own, and
flags change it, such as --config.sampler.slots=32 for the rows of a batch.

SIGTERM and Ctrl-C let the requests that run finish, refuse new ones, and end the server; a second
one ends it at once.
"""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from diffpo_jax.config import command
from diffpo_jax.run import early
from diffpo_jax.system import ports

config_flags.DEFINE_config_file(
    "config", None, "Sampler and prompts; by default the configuration of the workdir's run."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run with the checkpoints.")
_MODEL = flags.DEFINE_enum(
    "model", "both", ["both", "trained", "base"], "Which of the run's models to serve."
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; by default this machine's.")
_PORT = flags.DEFINE_integer(
    "port", 8000, "Port to listen on; 0 for any that is free.", lower_bound=0, upper_bound=65535
)


def main(argv: Sequence[str]) -> None:
    config = command.read_config(argv, ("workdir", "config"), __doc__.splitlines()[2].strip())
    names = ("trained", "base") if _MODEL.value == "both" else (_MODEL.value,)
    early.check_served(config, _WORKDIR.value, names)
    with ports.listen(_HOST.value, _PORT.value) as listening:
        # Imported after these checks, because importing jax takes seconds.
        from diffpo_jax.distributed import chips
        from diffpo_jax.run import serve
        from diffpo_jax.system import compilation

        compilation.enable_cache()
        chips.check_devices()
        serve.serve(config, _WORKDIR.value, names, listening, _HOST.value)


if __name__ == "__main__":
    command.run(main, run_flag="workdir", outlives_readers=True)
