"""Output to a terminal: text that cannot act on it, and streams that outlive their readers."""

import errno
import io
import os
import re
from typing import Any, TextIO

# Control characters but tab and newline, and the marks that turn the direction of writing.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# What a write gets once a pipe has no reader, or a terminal is gone.
_GONE = (errno.EPIPE, errno.EIO)


def printable(text: str) -> str:
    r"""The text with control characters as visible escapes, such as \x1b.

    Completions and rows may hold any characters, and a terminal takes some for commands: to move
    its cursor, to change its title or the clipboard.
    """
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def enduring(stream: TextIO) -> TextIO:
    """The stream, such that what is written after its reader has gone is dropped.

    A training run writes its results to files, and should not end with the `head` or the terminal
    that showed its log.
    """
    if type(stream) is not io.TextIOWrapper:
        return stream  # one that a test or a notebook has put there
    stream.flush()
    raw = _Enduring(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=True
    )


class _Enduring(io.FileIO):
    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            drop(self.fileno())
            return memoryview(data).nbytes


def drop(descriptor: int) -> None:
    """Sends what is written to a descriptor from now on nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
