"""What the commands share: flags, and messages in one line.  No jax."""

import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from diffpo_jax.config import Config, convert
from diffpo_jax.system.errors import STOPPED, Stopped, UserError


def run(main: Callable[[Sequence[str]], None], root: type = Config) -> None:
    """Runs a command; a mistake of the user's is one line and exit status 2.

    A run that was told to end, and saved what it did, exits with `errors.STOPPED`.

    Args:
      root: the dataclass that --config gives the fields of.
    """
    try:
        app.run(main, flags_parser=functools.partial(_parse, root=root))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as error:
        print(error, file=sys.stderr)
        sys.exit(STOPPED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or flags.FLAGS.flag_values_dict().get("workdir")
        print(f"error: no space left for {where}. Make room and start again.", file=sys.stderr)
        sys.exit(2)


def read_config(
    argv: Sequence[str],
    required: Sequence[str],
    example: str,
    build: Callable[[Any], Any] = convert.from_config_dict,
) -> Any:
    """The configuration of --config and its overrides, with everything else set up.

    Args:
      required: flags that must be given.
      example: a command that has them all, for the message.
      build: what makes the configuration of the ConfigDict and checks it.

    Raises:
      UserError: a flag is missing, an argument is no flag, the configuration is wrong.
    """
    require_flags(argv, required, example)
    try:
        result = build(flags.FLAGS["config"].value)
    except OSError as error:  # where the file could not be read, its first use says so
        path = next((w.partition("=")[2] for w in sys.argv if w.startswith("--config=")), "")
        raise UserError(f"cannot read the config file --config={path}.") from error
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # we need no PyTorch
    return result


def require_flags(argv: Sequence[str], required: Sequence[str], example: str) -> None:
    """Raises `UserError` where a flag is missing or an argument is no flag; quietens libraries."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --name=value.")
    for name in required:
        if flags.FLAGS[name].value in (None, []):
            raise UserError(f"--{name} is missing. Example: {example}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries tell of every file they write


def _parse(argv: Sequence[str], root: type) -> list[str]:
    try:
        return flags.FLAGS(list(argv))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(_flag_message(argv, error, root)) from error


def _flag_message(argv: Sequence[str], error: Exception, root: type) -> str:
    """Names the override that failed; ml_collections' own messages do not always."""
    text = str(error).strip("'\" ").splitlines()[0] if str(error) else type(error).__name__
    for word in argv[1:]:
        name = word.lstrip("-").partition("=")[0]
        if name.startswith("config."):
            fault = convert.unknown_field(name, root)
            if fault:
                return fault
    return text
