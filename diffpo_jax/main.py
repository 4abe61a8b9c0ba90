"""Runs an experiment.

    python -m diffpo_jax.main --config=configs/sudoku.py --workdir=runs/sudoku
    python -m diffpo_jax.main --config=configs/sudoku.py:smoke --config.method=d1 --workdir=...

`--config.section.field=value` sets any field of `diffpo_jax.config`.  The same command again
resumes the run.  Flags only; the run itself is `experiment.run`.
"""

import errno
import os
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from diffpo_jax import config_io
from diffpo_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment, configs/NAME.py[:preset]."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; holds all it writes.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Remove a run that is in the workdir first.")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --name=value.")
    for flag in (_CONFIG, _WORKDIR):
        if flag.value is None:
            raise UserError(f"--{flag.name} is missing. Example: {__doc__.splitlines()[2].strip()}")
    try:
        config = config_io.from_config_dict(_CONFIG.value)
    except OSError as error:  # where the file could not be read, its first use says so
        path = next((w.partition("=")[2] for w in sys.argv if w.startswith("--config=")), "")
        raise UserError(f"cannot read the config file --config={path}.") from error
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries tell of every file they write
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # we need no PyTorch
    _set_up_jax()
    # Imported here, after the flags are known to be right: jax takes seconds.
    from diffpo_jax import experiment

    experiment.run(config, _WORKDIR.value, overwrite=_OVERWRITE.value)


def entry() -> None:
    """Runs `main`; a mistake of the user's is one line and exit status 2."""
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or _WORKDIR.value
        print(f"error: no space left for {where}. Make room and start again.", file=sys.stderr)
        sys.exit(2)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(argv))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(_flag_message(argv, error)) from error


def _flag_message(argv: Sequence[str], error: Exception) -> str:
    """Names the override that failed; ml_collections' own messages do not always."""
    text = str(error).strip("'\" ").splitlines()[0] if str(error) else type(error).__name__
    for word in argv[1:]:
        name = word.lstrip("-").partition("=")[0]
        if name.startswith("config."):
            fault = config_io.unknown_field(name)
            if fault:
                return fault
    return text


def _set_up_jax() -> None:
    import jax

    # Programs compiled once are read back the next time; JAX_COMPILATION_CACHE_DIR moves them.
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "diffpo_jax", "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


if __name__ == "__main__":
    entry()
