"""Stand-ins for gcloud, xpk and Slurm's programs that record calls and give prepared answers.

They are one script under several names.  `answers.json` beside it maps a pattern of a call to the
texts and exit statuses of such calls in turn; the last entry repeats forever.
"""

import json
import os
import pathlib
import re
import shlex
import stat
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent.parent

SOURCE = f"""#!{sys.executable}
import json, pathlib, re, sys
here = pathlib.Path(__file__).parent
words = [pathlib.Path(__file__).name, *sys.argv[1:]]
call = " ".join(words)
with open(here / "calls.jsonl", "a") as file:
    file.write(json.dumps(words + ([sys.stdin.read()] if words[0] == "sbatch" else [])) + "\\n")
for pattern, answers in json.loads((here / "answers.json").read_text()).items():
    if re.search(pattern, call):
        count = here / ("count-" + re.sub("[^a-z]", "_", pattern))
        number = int(count.read_text()) if count.exists() else 0
        count.write_text(str(number + 1))
        text, status = answers[min(number, len(answers) - 1)]
        if text in ("hang", "wait"):
            import signal, time
            if text == "wait":  # cannot be interrupted
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            time.sleep(60 if text == "hang" else 1)
        print(text)
        sys.exit(status)
"""


class Machine(NamedTuple):
    """A directory of stand-ins, and an environment whose PATH finds them first."""

    bin: pathlib.Path
    environment: dict[str, str]

    def run(self, script: str, *words: str, timeout: float = 60) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(ROOT / "launch" / script), *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start(self, script: str, *words: str) -> subprocess.Popen:
        # As from a terminal: a shell's background jobs ignore SIGINT, and so would their children.
        return subprocess.Popen(
            ["/usr/bin/env", "--default-signal=INT", str(ROOT / "launch" / script), *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def calls(self) -> list[list[str]]:
        """All calls so far, as words; the last word of a call of sbatch is its script."""
        path = self.bin / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def order(self, **names: str) -> list[str]:
        """For each call, the first name whose pattern matches it; other calls are left out."""
        found = []
        for call in map(" ".join, self.calls):
            found += [n for n, pattern in names.items() if re.search(pattern, call)][:1]
        return found

    def wait_for(self, pattern: str, seconds: float = 20) -> None:
        """Waits until a call matches the pattern."""
        end = time.monotonic() + seconds
        while not any(re.search(pattern, " ".join(call)) for call in self.calls):
            assert time.monotonic() < end, f"no call matches {pattern}: {self.calls}"
            time.sleep(0.05)


def machine(
    directory: pathlib.Path, answers: dict[str, list[tuple[str, int]]], **settings: str
) -> Machine:
    """A machine whose programs give these answers; without one they print nothing and succeed."""
    (directory / "answers.json").write_text(json.dumps(answers))
    for name in ("gcloud", "xpk", "sbatch", "srun", "squeue", "sacct", "scancel", "scontrol"):
        path = directory / name
        path.write_text(SOURCE)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    home = {"PATH": path, "HOME": str(directory), "TMPDIR": str(directory)}
    return Machine(directory, home | {"POLL": "0"} | settings)


def words_after(call: list[str], flag: str) -> list[str]:
    """The shell words in the value of --flag=VALUE in a call."""
    value = next(word for word in call if word.startswith(f"{flag}="))
    return shlex.split(value.partition("=")[2])
