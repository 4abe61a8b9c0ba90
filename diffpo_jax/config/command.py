"""Flags and one-line error messages, shared by the commands.  Needs no jax."""

import _thread
import errno
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from diffpo_jax.config import Config, convert
from diffpo_jax.system.errors import STOPPED, Stopped, UserError


def run(main: Callable[[Sequence[str]], None], root: type = Config) -> None:
    """Runs a command.  A mistake of the user's becomes one line and exit status 2.

    A run that was told to stop, and has saved its state, exits with `errors.STOPPED`; Ctrl-C at
    another time is one line and exit status 130.

    Args:
      root: the dataclass that --config sets the fields of.
    """
    sys.unraisablehook = interrupt_again
    try:
        app.run(main, flags_parser=functools.partial(_parse, root=root))
    except SystemExit as end:
        # absl exits with 1 after it has printed the help.
        helped = end.code == 1 and any(x.lstrip("-").startswith("help") for x in sys.argv[1:])
        sys.exit(0 if helped else end.code)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as error:
        print(error, file=sys.stderr)
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; the same command goes on from what was saved.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or flags.FLAGS.flag_values_dict().get("workdir")
        print(f"error: no space left for {where}. Make room and start again.", file=sys.stderr)
        sys.exit(2)


def interrupt_again(unraisable: Any) -> None:
    """Raises Ctrl-C once more if it came in a place that cannot raise, and was swallowed there.

    JAX has such a place in every garbage collection.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)


def read_config(
    argv: Sequence[str],
    required: Sequence[str],
    example: str,
    build: Callable[[Any], Any] = convert.from_config_dict,
) -> Any:
    """Reads the configuration of --config and its overrides, after `require_flags`.

    Args:
      required: flags that must be given.
      example: a command with all of them, for the message.
      build: builds the configuration from the ConfigDict and checks it.

    Raises:
      UserError: a flag is missing, an argument is no flag, or the configuration is wrong.
    """
    require_flags(argv, required, example)
    try:
        result = build(flags.FLAGS["config"].value)
    except OSError as error:  # absl reports an unreadable file only when its value is used
        path = next((w.partition("=")[2] for w in sys.argv if w.startswith("--config=")), "")
        raise UserError(f"cannot read the config file --config={path}.") from error
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # PyTorch is not needed
    return result


def require_flags(argv: Sequence[str], required: Sequence[str], example: str) -> None:
    """Raises `UserError` if a flag is missing or an argument is no flag; silences libraries."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --name=value.")
    for name in required:
        if flags.FLAGS[name].value in (None, []):
            raise UserError(f"--{name} is missing. Example: {example}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries log every file they write


def _parse(argv: Sequence[str], root: type) -> list[str]:
    """Parses the flags.  Errors name the override that failed; ml_collections' often do not."""
    try:
        return flags.FLAGS(list(argv))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        names = [word.lstrip("-").partition("=")[0] for word in argv[1:]]
        faults = (convert.unknown_field(x, root) for x in names if x.startswith("config."))
        text = str(error).strip("'\" ").splitlines()[0] if str(error) else type(error).__name__
        raise UserError(next(filter(None, faults), text)) from error
