"""Names on the Hugging Face hub with the revisions that they are pinned to."""

import pathlib


def split(source: str) -> tuple[str, str | None]:
    """Splits "OWNER/NAME@REVISION" into the name and the revision: a commit, branch or tag.

    The revision is None if the source has none, or if it is an existing path.
    """
    if "@" not in source or pathlib.Path(source).exists():
        return source, None
    name, _, revision = source.rpartition("@")
    return name, revision
