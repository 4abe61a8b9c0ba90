"""The one exception a user is meant to read.

Everything a user can get wrong (a config field, a data file, a workdir, a mesh) raises
`UserError` with one line that says what is wrong, where, and what to do.  `main` prints
that line and exits with status 2; any other exception is a defect of ours and keeps its
traceback.
"""


class UserError(Exception):
    """A mistake in what the user gave us; `str(error)` is the whole message."""
