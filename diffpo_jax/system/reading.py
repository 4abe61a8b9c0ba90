"""What may be read: regular files, up to a size that a host can hold as Python objects."""

import errno
import os
import pathlib
import stat

from diffpo_jax.system.errors import UserError

MOST_BYTES = 2 * 2**30  # of one file of rows, and of what it unfolds to


def check_file(path: str | os.PathLike, where: str, most: int) -> None:
    """Raises `UserError` if an existing path cannot be read to its end as a file of `most` bytes.

    Pipes and devices may have no end, and nothing may ever come from them.

    Args:
      where: names the file in the message.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{where} cannot be read: {reason}.") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise UserError(f"{where} cannot be read: it is {kind}.")
    if found.st_size > most:
        raise too_large(where, most)


def read_text(path: str | os.PathLike) -> str:
    """The UTF-8 text of a regular file.

    Raises:
      OSError: it cannot be read, or is a pipe or a device, from which nothing may ever come.
      UnicodeDecodeError: it is not UTF-8.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a directory fails by itself
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return pathlib.Path(path).read_text("utf-8")


def too_large(where: str, most: int) -> UserError:
    """What to raise for a file that has, or unfolds to, more than `most` bytes."""
    size = f"{most / 2**30:g} GiB" if most >= 2**30 else f"{most / 2**20:g} MiB"
    return UserError(
        f"{where} has more than {size} of content, which would not fit in memory as rows. Give a "
        "part of it."
    )
