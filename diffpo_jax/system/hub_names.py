"""Names on the Hugging Face hub, with the revision they are pinned to."""

import pathlib


def split(source: str) -> tuple[str, str | None]:
    """ "OWNER/NAME@REVISION" -> the name and a commit, branch or tag; None where none is given.

    A path that is there is itself, whatever is in its name.
    """
    if "@" not in source or pathlib.Path(source).exists():
        return source, None
    name, _, revision = source.rpartition("@")
    return name, revision
