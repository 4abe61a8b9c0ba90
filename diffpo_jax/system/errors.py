"""The exceptions a user is meant to read.

Everything a user can get wrong (a config field, a data file, a workdir, a mesh) raises
`UserError` with one line that says what is wrong, where, and what to do.  `main` prints
that line and exits with status 2.  `Stopped` is no mistake: a run that was told to end has saved
what it did, and exits with `STOPPED`.  Any other exception is a defect of ours and keeps its
traceback.
"""


class UserError(Exception):
    """A mistake in what the user gave us; `str(error)` is the whole message."""


# EX_TEMPFAIL of sysexits.h: nothing is wrong, try again later.
STOPPED = 75


class Stopped(Exception):
    """The run was told to end and can go on from here; `str(error)` is the whole message."""
