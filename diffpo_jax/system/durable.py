"""Makes files, directories and renames survive a power cut.

A file that was written and closed may still be in memory alone, and so may the names in a
directory.  Buckets that are mounted as directories have nothing to wait for.
"""

import contextlib
import errno
import os
import pathlib

# What file systems and devices answer that cannot wait for a file or a directory.
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def sync(path: str | os.PathLike) -> None:
    """Waits until a file's content, or the names in a directory, are on the disk.

    Raises:
      OSError: they could not be written.
    """
    path = os.fspath(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # one may write to a directory, and not read it
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            error.filename = path
            raise
    finally:
        os.close(descriptor)


def sync_tree(directory: str | os.PathLike) -> None:
    """`sync` of a directory and of all that is in it."""
    for folder, _, names in os.walk(directory, topdown=False, onerror=_raise):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                sync(path)
        sync(folder)


def make_directory(path: str | os.PathLike) -> None:
    """Makes a directory and those above it, if they are missing."""
    path = pathlib.Path(path)
    missing = [x for x in (path, *path.parents) if not x.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)


def rename(old: str | os.PathLike, new: str | os.PathLike) -> None:
    """Renames a file or directory; what is at `new` is replaced as by `os.replace`."""
    os.replace(old, new)
    for directory in {os.path.dirname(os.path.abspath(x)) for x in (old, new)}:
        sync(directory)


def remove(path: str | os.PathLike) -> None:
    """Removes a file, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        sync(os.path.dirname(os.path.abspath(path)))


def _raise(error: OSError) -> None:
    raise error
