"""Keeps a second command out of a directory that one writes to.

The lock is the kernel's: it ends with the process that holds it, however that ends, so that there
is no stale lock.  The file that it is on stays, and names the last holder.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator

from diffpo_jax.system import durable
from diffpo_jax.system.errors import UserError
from diffpo_jax.system.progress import say

NAME = ".lock"
# Some network file systems have no locks.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextlib.contextmanager
def hold(root: str | os.PathLike, flag: str = "--workdir") -> Iterator[None]:
    """Holds a directory, which is made if need be, within the block.

    Args:
      flag: the flag that names the directory, for the message.

    Raises:
      UserError: another process holds it, or the directory cannot be written.
    """
    path = pathlib.Path(root) / NAME
    try:
        durable.make_directory(path.parent)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir {root}: {error.strerror or error} ({error.filename}). "
            f"Choose another with {flag}."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{root} is in use by {holder}. Wait until it has ended, stop it, or choose "
                f"another {flag}."
            ) from error
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            say(f"note: the file system of {root} has no locks; start only one command there.")
        file.truncate(0)
        command = os.path.basename(sys.argv[0])
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} ({command}, since {began})\n")
        file.flush()
        yield
