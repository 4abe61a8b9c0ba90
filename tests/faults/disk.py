"""What a disk holds after a kill or a power cut."""

import os
import pathlib
import shutil


def copy(root, target):
    """Copies a directory that other threads may change meanwhile: what a kill leaves."""
    target.mkdir(parents=True)
    for entry in _entries(root):
        try:
            if entry.is_dir(follow_symlinks=False):
                copy(pathlib.Path(entry.path), target / entry.name)
            else:
                shutil.copyfile(entry.path, target / entry.name)
        except FileNotFoundError:
            continue


WAYS = ("least", "names", "mixed")


class Disk:
    """What of a directory is on the disk, and not in memory alone: what has been synced.

    Call `synced` after every os.fsync.  Syncs of libraries in C are not seen, so that the disk
    holds less than a real one.
    """

    def __init__(self, root):
        self.root = root
        self._files = {}  # content by inode
        self._names = {}  # entries of directories by inode: name -> (inode, whether a directory)

    def synced(self, descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        inode = os.fstat(descriptor).st_ino
        if os.path.isdir(path):
            self._names[inode] = {
                entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False))
                for entry in _entries(path)
            }
        elif os.path.exists(path):
            self._files[inode] = pathlib.Path(path).read_bytes()

    def after_power_cut(self, target, rng, run, way=None):
        """Writes what is left of a run's directory after a power cut.

        Of names, either those that were synced are left, or the newest ones; of a file what was
        synced, or a part of it, or all.

        Args:
          way: "least", nothing else than what was synced; "names", all names but no other content;
            "mixed", a choice for each directory and file; None chooses one of these.
        """
        way = way or WAYS[rng.integers(len(WAYS))]
        if not run.exists():
            return
        inode = run.stat().st_ino
        if self._names.get(self.root.stat().st_ino, {}).get(run.name, (0,))[0] == inode:
            self._write(inode, run, target, way, rng)

    def _write(self, inode, path, target, way, rng):
        target.mkdir(parents=True, exist_ok=True)
        now = {}
        if path is not None:
            now = {x.name: (x.inode(), x.is_dir(follow_symlinks=False)) for x in _entries(path)}
        synced = self._names.get(inode, {})
        old = way == "least" or (way == "mixed" and rng.integers(2))
        for name, (number, is_directory) in (synced if old else now).items():
            # Another file may have this name now, and this one another name.
            here = path / name if path is not None and now.get(name, (0,))[0] == number else None
            if is_directory:
                here = here or self._find(number)
                self._write(number, here, target / name, way, rng)
            else:
                (target / name).write_bytes(self._content(number, here, way, rng))

    def _content(self, inode, path, way, rng):
        synced = self._files.get(inode, b"")
        if way != "mixed" or path is None or rng.integers(2):
            return synced
        try:
            whole = path.read_bytes()
        except FileNotFoundError:
            return synced
        if whole.startswith(synced):  # it is not in doubt what was synced
            return whole[: rng.integers(len(synced), len(whole) + 1)]
        return synced

    def _find(self, inode):
        """Where a directory is now."""
        for folder, names, _ in os.walk(self.root):
            for name in names:
                path = pathlib.Path(folder, name)
                if path.stat().st_ino == inode:
                    return path
        return None


def _entries(path):
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
