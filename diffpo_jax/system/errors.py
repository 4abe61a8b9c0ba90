"""The exceptions whose messages are written for users.

Every mistake of a user (in a config field, a data file, a workdir or a mesh) raises `UserError`
with one line that says what is wrong, where, and what to do; `config.command.run` prints that
line and exits with status 2. `Stopped` is no mistake: the run was asked to stop, has saved its work
and exits with status `STOPPED`. Any other exception is a bug and keeps its traceback.
"""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """A mistake in the user's input; `str(error)` is the whole message."""


# EX_TEMPFAIL in sysexits.h: a temporary failure, to be tried again later.
STOPPED = 75


class Stopped(Exception):
    """The run was asked to stop and can be resumed; `str(error)` is the whole message."""


@contextlib.contextmanager
def during(what: str) -> Iterator[None]:
    """Puts what was being done before the message of a `UserError` from the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
