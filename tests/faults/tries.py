"""The faults, and what a run does after each of them.

A kill leaves what the files hold at that moment, so that one run, whose directory is copied before
many of its file calls, gives as many tries.  `processes` kills real processes.
"""

import errno
import os
import pathlib
import resource
import shutil
import signal
import tempfile
from typing import NamedTuple

import jax
import numpy as np
from faults import calls, disk, processes, results, warm
from faults.results import EQUAL, LOST, REFUSED, SILENT

from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import checkpoints

CODES = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)
_STATES = 24  # copies of the directory that one run gives


class Try(NamedTuple):
    """A fault, how it ended, and why if that is one of `results.WORST`."""

    kind: str
    what: str
    ended: str
    why: str = ""


class Faults:
    """Tries in one directory, with the results of an uninterrupted run to compare with."""

    def __init__(self, root, seed=0):
        self.root, self.rng = pathlib.Path(root), np.random.default_rng(seed)
        self.run = self.root / "run"
        self._clear()
        self.counts = {}
        for changing in (False, True):
            self._clear()
            with calls.watch(self.run, lambda *call: None, changing) as watcher:
                outcome = warm.run(self.run)
            assert outcome.status == 0, outcome.text
            self.counts[changing] = watcher.count
        self.expected = results.of(self.run)
        self.finished = self.root / "finished"
        disk.copy(self.run, self.finished)

    def kills(self, count):
        """Kills before file calls."""
        for what, state in self._states(count, power=False):
            yield self._again("kill at a file call", what, state)

    def power_cuts(self, count):
        """The power goes before file calls."""
        for what, state in self._states(count, power=True):
            yield self._again("power cut", what, state)

    def errors(self, count):
        """A file call fails: one of all, or all from one on that would change something."""
        for _ in range(count):
            self._clear()
            code, forever = int(self.rng.choice(CODES)), bool(self.rng.integers(2))
            at = int(self.rng.integers(self.counts[forever]))
            failed = []

            def fail(number, kind, path, at=at, code=code, forever=forever, failed=failed):
                if number == at or (forever and number > at and kind != "remove"):
                    failed.append(f"{errno.errorcode[code]}, {kind} {self._short(path)}")
                    raise OSError(code, os.strerror(code), path)

            with calls.watch(self.run, fail, changing=forever):
                first = warm.run(self.run)
            name = "errors from a file call on" if forever else "error at a file call"
            yield self._both(name, failed[0] if failed else "none", first)

    def size_limits(self, count):
        """No file may grow past a size: the only way in which writes of libraries in C fail."""
        for _ in range(count):
            self._clear()
            limit = int(2 ** self.rng.uniform(5, 14))
            at = int(self.rng.integers(self.counts[True]))
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

            def limited(number, kind, path, at=at, limit=limit, hard=hard):
                if number == at:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

            try:
                with calls.watch(self.run, limited, changing=True):
                    first = warm.run(self.run)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                signal.signal(signal.SIGXFSZ, before)
            yield self._both("files limited in size", f"{limit} bytes from call {at} on", first)

    def damage(self, count, finished=False):
        """A file is changed, cut, emptied or removed, of a run that is stopped midway, or done."""
        name = "damage to a finished run" if finished else "damage to a stopped run"
        states = [self.finished] if finished else self._stopped()
        for i in range(count):
            self._start_from(states[i % len(states)])
            path, what = self._damage(self.run)
            if finished and path.is_relative_to(self.run / "checkpoints"):
                ended, why = self._read_again()  # the command of a finished run does not read them
            else:
                ended, why = results.judge(warm.run(self.run), self.run, self.expected)
            if (
                not finished
                and ended == REFUSED
                and path.is_relative_to(steps := self.run / "checkpoints/rl")
            ):
                ended = LOST if len([p for p in steps.iterdir() if p.is_dir()]) > 1 else ended
            yield Try(name, what, ended, why)

    def overwrites(self, count):
        """A start with --overwrite is killed; then the same command comes without the flag."""
        other = "--config.seed=2"
        if not count:
            return
        self._clear()
        assert warm.run(self.run, other).status == 0
        expected = results.of(self.run)
        given = ("--overwrite", other)
        for what, state in self._states(count, power=None, start=self.finished, words=given):
            self._start_from(state)
            ended, why = results.judge(warm.run(self.run, other), self.run, expected)
            yield Try("--overwrite, killed", what, ended, why)

    def processes(self, count):
        """Real processes are ended at a file call, or at some time."""
        for i in range(count):
            self._clear()
            if i % 2:
                at = int(self.rng.integers(self.counts[True]))
                what, status = f"os._exit at call {at}", processes.end_at(self.run, at)
            else:
                seconds = float(self.rng.uniform(2, 12))
                what = f"SIGKILL after {seconds:.1f} s"
                status = processes.end_after(self.run, seconds)
            yield self._again("process ended", f"{what} ({status})", None)

    def pairs(self, count):
        """Two processes start in one directory: one is refused, and the other is not disturbed."""
        for _ in range(count):
            self._clear()
            pause = float(self.rng.uniform(0, 3))
            first, second = processes.two(self.run, pause)
            what = f"{pause:.1f} s apart"
            ends = sorted((first, second), key=lambda outcome: outcome.status)
            ended, why = results.judge(ends[0], self.run, self.expected)
            if ended == EQUAL:
                ended, why = results.judge(ends[1], self.run, self.expected)
                ended = EQUAL if "is in use by" in why else ended
            yield Try("two starts at once", what, ended, why)

    def _states(self, count, power, start=None, words=()):
        """Copies of the directory before file calls, as a kill or a power cut leaves it."""
        left = count
        while left:
            self._clear()
            if start is not None:
                disk.copy(start, self.run)
            total = self.counts[True] + (100 if words else 0)
            chosen = set(self.rng.choice(total, min(left, _STATES), replace=False).tolist())
            states, shadow = [], disk.Disk(self.root)
            place = pathlib.Path(tempfile.mkdtemp(dir=self.root, prefix="states-"))

            def keep(number, kind, path, chosen=chosen, states=states, shadow=shadow, place=place):
                if number not in chosen:
                    return
                target = place / str(number)
                try:
                    if power:
                        shadow.after_power_cut(target, self.rng, self.run)
                    else:
                        disk.copy(self.run, target)
                except OSError as error:
                    raise AssertionError(f"a copy failed: {error!r}") from error
                states.append((f"before {kind} {self._short(path)}", target))

            with calls.watch(self.root, keep, changing=True, after=shadow.synced):
                outcome = warm.run(self.run, *words)
            assert outcome.status == 0, outcome.text
            yield from states
            left -= len(states)
            shutil.rmtree(place)

    def _stopped(self):
        """A run that is stopped in RL, and one before its evaluation, which has two steps of RL."""
        self._clear()
        places = {"rl-000002": self.root / "in-rl", "/points": self.root / "before-evaluation"}

        def keep(number, kind, path):
            for name, target in places.items():
                if name in path and not target.exists():
                    disk.copy(self.run, target)

        with calls.watch(self.run, keep, changing=True):
            warm.run(self.run)
        return list(places.values())

    def _damage(self, root):
        # Markers that are empty cannot be damaged, and nobody reads a lock, or run_info.json.
        files = sorted(p for p in root.rglob("*") if p.is_file() and p.stat().st_size)
        files = [p for p in files if p.name not in (".lock", "run_info.json")]
        # Of every folder as many: there are most files in checkpoints.
        places = sorted({p.relative_to(root).parts[0] for p in files})
        place = places[self.rng.integers(len(places))]
        files = [p for p in files if p.relative_to(root).parts[0] == place]
        path = files[self.rng.integers(len(files))]
        content = path.read_bytes()
        way = ("bit", "cut", "emptied", "removed")[self.rng.integers(4)]
        if way == "bit" and content:
            position = int(self.rng.integers(8 * len(content)))
            changed = bytearray(content)
            changed[position // 8] ^= 1 << position % 8
            path.write_bytes(changed)
        elif way == "removed":
            path.unlink()
        else:
            path.write_bytes(content[: self.rng.integers(len(content) + 1) if way == "cut" else 0])
        return path, f"{way}: {self._short(path)}"

    def _read_again(self):
        """What becomes of the models of a run whose checkpoints are damaged, if they are read."""
        for stage in ("base", "rl"):
            steps = pathlib.Path("checkpoints", stage)
            whole = results.params(self.finished / steps)
            try:
                found = checkpoints.restore_params(self.run / steps, whole)
            except UserError as error:
                return REFUSED, str(error)
            if not all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(whole))):
                return SILENT, str(steps)
        return EQUAL, ""

    def _both(self, kind, what, first):
        """A try whose first start met errors: it ends in one line or well, and can go on."""
        ended, why = results.judge(first, self.run, self.expected)
        if ended not in (EQUAL, REFUSED):
            return Try(kind, what, ended, why)
        again = self._again(kind, what, None)
        return again._replace(why=f"{again.why} (first: {why})") if again.why else again

    def _again(self, kind, what, state):
        """Starts a run again, which must go on to its end."""
        if state is not None:
            self._start_from(state)
        ended, why = results.judge(warm.run(self.run), self.run, self.expected)
        return Try(kind, what, LOST if ended == REFUSED else ended, why)

    def _start_from(self, state):
        self._clear()
        if state.exists():
            disk.copy(state, self.run)

    def _clear(self):
        shutil.rmtree(self.run, ignore_errors=True)

    def _short(self, path):
        return os.path.relpath(path, self.run)
