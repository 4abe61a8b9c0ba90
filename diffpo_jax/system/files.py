"""Writes files that hold the old content or the new one, even after a kill or a power cut."""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from diffpo_jax.system import durable
from diffpo_jax.system.errors import UserError


def write_atomic(path: str | os.PathLike, content: str | bytes) -> None:
    """Replaces the content of the file at `path` (text as UTF-8); creates missing directories.

    Readers see the old file or the new one, never a part. The content is written to a temporary
    file beside `path`, so that the rename stays within one file system.

    Raises:
      OSError: for example, no space is left; it names the file. The old file is untouched, or the
        new one is there whole, and the temporary one removed.
    """
    path = os.fspath(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    directory, name = os.path.split(path)
    directory = directory or os.curdir
    durable.make_directory(directory)
    # A random name, because two runs that share a data directory may write a file at once.
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        durable.rename(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename = path  # a full disk names none, and nobody knows the temporary name
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON that ends in a newline, like `write_atomic`.

    Raises:
      ValueError: a number is NaN or infinite, which JSON cannot represent.
      TypeError: JSON cannot represent a value.
    """
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_jsonl(path: str | os.PathLike, rows: Sequence[dict[str, Any]]) -> None:
    """Writes one JSON object per line, like `write_atomic`. Raises what `write_json` does."""
    lines = [json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows]
    write_atomic(path, "".join(lines))


def check_target(path: str | os.PathLike, flag: str, *, directory: bool = False) -> None:
    """Refuses a place for results to which nothing can be written, before the work for them.

    Args:
      flag: the flag that names it, for the message.
      directory: whether a directory is to be written there, and not a file.

    Raises:
      UserError: the path or one above it is of the wrong kind, or the file system or its
        permissions do not let us write.
    """
    whole = pathlib.Path(os.path.abspath(path))
    place = next(x for x in (whole, *whole.parents) if os.path.exists(x))
    if place == whole and not directory:
        if place.is_dir():
            raise UserError(f"{flag}={path} is a directory: name a file in it.")
        if not place.is_file():  # a rename would put a file in place of a device such as /dev/null
            raise UserError(f"{flag}={path} is no regular file: name another.")
    elif not place.is_dir():
        raise UserError(f"{flag}={path} cannot be written: {place} is not a directory.")
    if not os.access(place, os.W_OK):
        raise UserError(f"{flag}={path} cannot be written: {place} is read-only for this user.")


@contextlib.contextmanager
def explained(path: str | os.PathLike, flag: str) -> Iterator[None]:
    """Turns an `OSError` within the block into a `UserError` about the flag that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{flag}={path} cannot be written: {reason}. Choose another.") from error


@contextlib.contextmanager
def new_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary directory that is renamed to `path` at the end of the `with` block.

    Its files get the permissions of new files, whatever the library that wrote them gave them.  If
    the block raises, the directory is removed.

    Raises:
      UserError: `path` exists already.
    """
    path = pathlib.Path(path)
    if path.exists():
        raise UserError(f"{path} exists already: choose another directory, or remove it.")
    durable.make_directory(path.parent)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir()
        yield temporary
        _give_usual_permissions(temporary)
        durable.sync_tree(temporary)
        durable.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _give_usual_permissions(directory: pathlib.Path) -> None:
    """Sets the permissions that the umask leaves; safetensors writes files for the owner alone."""
    # A new directory has those of the umask, which cannot be read without setting it.
    mode = stat.S_IMODE(directory.stat().st_mode)
    for path in directory.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)
