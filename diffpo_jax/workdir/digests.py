"""Digests of what a run has written and does not compute again, to notice a file that has changed.

Checkpoints have those of the lines and samples up to their step, and digests.json, which a run
writes last, those of its inputs and of the numbers in its report as well.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from diffpo_jax.system import files
from diffpo_jax.workdir.layout import Workdir

_REPORT = ("summary.json", "outcomes.npz", "frontier.csv")  # the numbers, not pictures of them

# By the path from the workdir: how many bytes the file had, and the digest of these.  Metrics grow.
Digests = Mapping[str, tuple[int, str]]


def take(workdir: Workdir) -> dict[str, tuple[int, str]]:
    """The digests of metrics.jsonl and of all samples.

    Every checkpoint has them, so samples that this process has read and that are as they were are
    not read again.
    """
    return _digests(workdir.root, [workdir.metrics, *workdir.samples.glob("*.jsonl")])


def changed(workdir: Workdir, recorded: Digests) -> list[str]:
    """The files that do not begin with what was recorded of them, or are missing."""
    return [
        name
        for name, (size, digest) in recorded.items()
        if _sha256(workdir.root / name, size) != digest
    ]


def record(workdir: Workdir) -> None:
    """Writes digests.json, when all else is written."""
    more = _digests(workdir.root, [workdir.inputs, *(workdir.report / x for x in _REPORT)])
    files.write_json(workdir.digests, take(workdir) | more)


def read(workdir: Workdir) -> dict[str, Any]:
    """The content of digests.json; empty if there is none, as older versions wrote none.

    A damaged file is one for which nothing is as it was.
    """
    try:
        found = json.loads(workdir.digests.read_text("utf-8"))
        return {name: (int(size), str(digest)) for name, (size, digest) in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError):
        return {workdir.digests.name: (0, "")}


def _digests(root: pathlib.Path, paths: list[pathlib.Path]) -> dict[str, tuple[int, str]]:
    inside = sorted(x for x in paths if x.is_relative_to(root) and x.exists())
    found = {x: x.stat() for x in inside}
    return {
        str(x.relative_to(root)): (at.st_size, _sha256_of(x, at.st_size, at.st_mtime_ns, at.st_ino))
        for x, at in found.items()
    }


@functools.cache
def _sha256_of(path: pathlib.Path, size: int, changed_ns: int, inode: int) -> str:
    """`_sha256` of a file that is another one if it changes, as the other arguments tell."""
    return _sha256(path, size)


def _sha256(path: pathlib.Path, size: int) -> str:
    """The digest of the first `size` bytes; "" if there are fewer."""
    try:
        content = path.read_bytes()[:size]
    except FileNotFoundError:
        return ""
    return hashlib.sha256(content).hexdigest() if len(content) == size else ""
