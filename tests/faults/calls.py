"""Watches the file calls of this process under one directory, and acts before each of them."""

import contextlib
import os
import sys
import threading

_OPEN, _WRITES = "open", os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Python reports these by itself (`sys.audit`), with where their paths are among the arguments.
_AUDITED = {
    "os.mkdir": (0, 2),
    "os.rmdir": (0, 1),
    "os.remove": (0, 1),
    "os.rename": (0, 2),
    "os.truncate": (0, None),
    "os.chmod": (0, 2),
    "os.listdir": (0, None),
    "os.scandir": (0, None),
}
CHANGING = ("open to write", "mkdir", "rmdir", "remove", "rename", "truncate", "write", "fsync")

_watcher, _own = None, threading.local()


class Watcher:
    """Calls `act(number, kind, path)` before the calls of a process under `root`."""

    def __init__(self, root, act, changing=False, after=None):
        """
        Args:
          changing: whether only calls are watched that change something on the disk.
          after: is called as after(descriptor) when one was synced.
        """
        self.root, self.act, self.after = os.path.abspath(root), act, after
        self._changing, self._lock, self.count = changing, threading.Lock(), 0

    def see(self, kind, path):
        if path is None or getattr(_own, "busy", False):
            return
        if path != self.root and not path.startswith(self.root + os.sep):
            return
        if self._changing and kind not in CHANGING:
            return
        with self._lock:
            number, self.count = self.count, self.count + 1
            with unseen():
                self.act(number, kind, path)


@contextlib.contextmanager
def unseen():
    """What this thread does within the block is not watched."""
    before, _own.busy = getattr(_own, "busy", False), True
    try:
        yield
    finally:
        _own.busy = before


@contextlib.contextmanager
def watch(root, act, changing=False, after=None):
    """Watches within the block; yields the watcher, whose `count` is the number of calls."""
    global _watcher
    fsync, write, stat = os.fsync, os.write, os.stat

    def seen_fsync(file):
        _see("fsync", _path(file))
        fsync(file)
        if after is not None and not getattr(_own, "busy", False):
            with unseen():
                after(file)

    def seen_write(file, data):
        _see("write", _path(file))
        return write(file, data)

    def seen_stat(path, *args, **more):
        if not isinstance(path, int):
            _see("stat", _path(path, more.get("dir_fd")))
        return stat(path, *args, **more)

    _watcher = Watcher(root, act, changing, after)
    _install()
    os.fsync, os.write, os.stat = seen_fsync, seen_write, seen_stat
    try:
        yield _watcher
    finally:
        _watcher = None
        os.fsync, os.write, os.stat = fsync, write, stat


def _see(kind, path):
    if (watcher := _watcher) is not None:
        watcher.see(kind, path)


def _audit(event, args):
    if _watcher is None or getattr(_own, "busy", False):
        return
    if event == "open":
        path, _, flags = args
        _see("open to write" if flags & _WRITES else "open", _path(path))
    elif event in _AUDITED:
        path, folder = _AUDITED[event]
        _see(event.partition(".")[2], _path(args[path], args[folder] if folder else None))


def _path(path, folder=None):
    """The absolute path of a path or descriptor; None if it has none."""
    try:
        if isinstance(path, int):
            return os.readlink(f"/proc/self/fd/{path}")
        path = os.fsdecode(path if path is not None else ".")
        if isinstance(folder, int) and folder >= 0 and not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        return os.path.abspath(path)
    except (OSError, TypeError):
        return None


_installed = False


def _install():
    """Adds the hook, which stays as long as the process."""
    global _installed
    if not _installed:
        sys.addaudithook(_audit)
        _installed = True
