"""Flags and one-line error messages, shared by the commands.  Needs no jax."""

import _thread
import contextlib
import errno
import functools
import inspect
import io
import logging as stdlib_logging
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from diffpo_jax.config import Config, convert, other_names
from diffpo_jax.system import terminal
from diffpo_jax.system.errors import STOPPED, Stopped, UserError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Faults of a disk, also where an error names no file.
_OF_DISKS = (errno.EIO, errno.EFBIG, errno.ESTALE)
# Faults of a path that a user named.  A file that is missing is none: who opens it says what it is.
_OF_FILES = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, *_OF_DISKS),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
)
# A config file that takes a workdir.  It is named by its path, as it depends on this package.
_OF_RUN = pathlib.Path(__file__).parents[1] / "workdir" / "of_run.py"


def run(
    main: Callable[[Sequence[str]], None],
    root: type = Config,
    *,
    run_flag: str | None = None,
    outlives_readers: bool = False,
) -> None:
    """Runs a command.  A mistake of the user's becomes one line and exit status 2.

    A run that was told to stop, and has saved its state, exits with `errors.STOPPED`; Ctrl-C at
    another time is one line and exit status 130.

    Args:
      root: the dataclass that --config sets the fields of.
      run_flag: the flag that names a workdir, whose run's own configuration is used without
        --config.
      outlives_readers: whether the command goes on when nobody reads its output any more, as after
        `| head`: its results are files.
    """
    sys.unraisablehook = interrupt_again
    _open_streams(outlives_readers)
    try:
        status = _run(main, functools.partial(_parse, root=root, run_flag=run_flag))
    except BrokenPipeError:  # nobody reads on, as after `| head`
        status = 1
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EPIPE:
            _fail(f"cannot write to standard output: {error.strerror}.", 1)
        status = status or 1
        # Python would write what is left of it at its end.
        terminal.drop(sys.stdout.fileno())
    sys.exit(status)


def _run(main: Callable[[Sequence[str]], None], parser: Callable[[Sequence[str]], Any]) -> Any:
    """Runs a command; returns its exit status, after a line about what went wrong."""
    try:
        app.run(main, flags_parser=parser)
    except SystemExit as end:
        # absl exits with 1 after it has printed the help.
        return 0 if end.code == 1 and _asks_for_help(sys.argv) else end.code
    except UserError as error:
        return _fail(str(error), 2)
    except Stopped as error:
        print(error, file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; what was saved before is still there.", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:
        given = flags.FLAGS.flag_values_dict()
        where = error.filename or given.get("workdir") or given.get("out") or "standard output"
        if error.errno in _NO_SPACE:
            return _fail(f"no space left for {where}. Make room and start again.", 2)
        if error.errno not in _OF_FILES or not (error.filename or error.errno in _OF_DISKS):
            raise
        return _fail(f"{where}: {error.strerror}.", 2)


def _asks_for_help(argv: Sequence[str]) -> bool:
    return any(word.startswith("-") and word.lstrip("-").startswith("help") for word in argv[1:])


def _fail(text: str, status: int) -> int:
    # Errors quote data and names of files, which may hold anything.
    line = terminal.printable(text).replace("\n", " ")
    print(f"error: {line}", file=sys.stderr)
    return status


def _open_streams(endure: bool) -> None:
    """Makes output work that is closed (`>&-`), or that has no γ (PYTHONIOENCODING=ascii).

    Args:
      endure: whether it also works when its reader goes away.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Otherwise the next file to be opened would become the output of libraries in C.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the process ends)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        if endure:
            setattr(sys, name, terminal.enduring(stream))


def interrupt_again(unraisable: Any) -> None:
    """Raises Ctrl-C once more if it came in a place that cannot raise, and was swallowed there.

    JAX has such a place in every garbage collection.  After a failed save orbax' event loop is
    closed before its last writes end, and after a failed read the other reads fail too, each in a
    coroutine that nobody waits for: that is no news.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, _thread.interrupt_main).start()
    elif str(unraisable.exc_value) != "Event loop is closed" and not _is_orbax(unraisable.object):
        sys.__unraisablehook__(unraisable)


def _is_orbax(found: Any) -> bool:
    """Whether this is a coroutine of orbax."""
    return inspect.iscoroutine(found) and "orbax" in pathlib.Path(found.cr_code.co_filename).parts


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
        if flags.FLAGS[name].value in (None, "", []):
            raise UserError(f"--{name} is missing. Example: {example}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries log every file they write
        # Of a failed save orbax logs a traceback for each file; what we raise says what failed.
        logging.get_absl_handler().addFilter(lambda record: "/orbax/" not in record.pathname)
        stdlib_logging.getLogger("asyncio").setLevel(stdlib_logging.CRITICAL)


def _parse(argv: Sequence[str], root: type, run_flag: str | None) -> list[str]:
    """Parses the flags.  Errors name the override that failed; ml_collections' often do not."""
    words = [argv[0], *_config_of_run(argv, run_flag), *argv[1:]]
    if "config" in flags.FLAGS and (spec := _given(words, "config")) and not _asks_for_help(argv):
        convert.dict_from_file(spec)  # whose errors say more than those of ml_collections
    try:
        with _command_line(words):
            return flags.FLAGS(words)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, *_NO_SPACE):
            raise  # of standard output, on which the help is printed
        names = [word.lstrip("-").partition("=")[0] for word in argv[1:]]
        names = [name for name in names if name.startswith("config.")]
        if names and "config" in flags.FLAGS and _given(words, "config") is None:
            place = f", or the run with --{run_flag}" if run_flag else ""
            raise UserError(
                f"--config is missing, in which --{names[0]} sets a field. Name the config file "
                f"before it{place}."
            ) from error
        if "config" in flags.FLAGS and (hint := _bare_field(argv, root)):
            raise UserError(hint) from error
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        text = text.strip().partition("\n")[0] or type(error).__name__
        faults = (convert.unknown_field(name, root) for name in names)
        raise UserError(next(filter(None, faults), text)) from error


def _bare_field(argv: Sequence[str], root: type) -> str | None:
    """A message about a flag --NAME that should be --config.NAME, or has another name here."""
    words = (word for word in argv[1:] if word.startswith("--"))
    for name in (word.lstrip("-").partition("=")[0] for word in words):
        if name in flags.FLAGS or name.startswith("config."):
            continue
        fault = convert.unknown_field(f"config.{name}", root)
        if fault is None:
            return f"--{name} is no flag, but a field of the configuration: use --config.{name}."
        if any(name.rpartition(".")[2] in names for names in other_names.LIBRARIES.values()):
            return fault
    return None


def _config_of_run(argv: Sequence[str], run_flag: str | None) -> list[str]:
    """The flag --config for the run that `run_flag` names; none if --config is given already."""
    if run_flag is None or _asks_for_help(argv) or _given(argv, "config") is not None:
        return []
    workdir = _given(argv, run_flag)
    return [f"--config={_OF_RUN}:{workdir}"] if workdir else []


def _given(argv: Sequence[str], name: str) -> str | None:
    """The value of a flag on a command line that is not parsed yet; None if it is not there."""
    found = None
    for i, word in enumerate(argv[1:], start=1):
        if word == "--":
            break
        flag, equals, value = word.partition("=")
        if flag in (f"-{name}", f"--{name}"):
            found = value if equals else "".join(argv[i + 1 : i + 2])
    return found


@contextlib.contextmanager
def _command_line(words: Sequence[str]) -> Iterator[None]:
    """Sets sys.argv within the block: ml_collections reads the overrides there."""
    before, sys.argv = sys.argv, list(words)
    try:
        yield
    finally:
        sys.argv = before
