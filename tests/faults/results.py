"""What a run has computed, and how a try ended."""

import hashlib
import json

import jax
import numpy as np
import orbax.checkpoint as ocp

from diffpo_jax.workdir import checkpoints

EQUAL, NAMED, REFUSED = "equal", "equal but for files in a warning", "refused in one line"
SILENT, TRACEBACK, LOST = "silent", "traceback", "lost"
WORST = (SILENT, TRACEBACK, LOST)


def of(workdir):
    """All numbers of a finished run by the file that has them, without times."""
    found = {}
    for path in sorted(p for p in workdir.rglob("*") if p.is_file()):
        name = str(path.relative_to(workdir))
        # What a kill leaves of a file that was not whole yet, and pictures of other files' numbers.
        if path.suffix in (".tmp", ".png"):
            continue
        if name.startswith(("samples/", "report/")) or name in ("config.json", "inputs.json"):
            found[name] = path.read_bytes()
    found["report/summary.json"] = _without_times(found["report/summary.json"])
    with np.load(workdir / "report/outcomes.npz", allow_pickle=False) as arrays:
        found["report/outcomes.npz"] = {k: (x.dtype.str, x.tolist()) for k, x in arrays.items()}
    if (workdir / "metrics.jsonl").exists():
        lines = (workdir / "metrics.jsonl").read_bytes().splitlines()
        found["metrics.jsonl"] = [_line(line) for line in lines]
    for stage in ("base", "rl"):
        last = str(checkpoints.latest_step(workdir / "checkpoints" / stage))
        for part in ("params", "opt"):
            path = workdir / "checkpoints" / stage / last / part
            found[f"{stage}/{last}/{part}"] = _digest(path)
    return found


def differences(found, expected):
    return [name for name in {**expected, **found} if found.get(name) != expected.get(name)]


def _line(line):
    try:
        return _without_times(line)
    except ValueError:
        return line


def _without_times(line):
    return {
        name: value
        for name, value in json.loads(line).items()
        if not name.startswith("time/") and name != "wall_seconds"
    }


def params(directory):
    """The parameters of the newest of a stage's checkpoints."""
    with ocp.StandardCheckpointer() as reader:
        step = str(checkpoints.latest_step(directory))
        return reader.restore((directory / step / "params").absolute())


def _digest(path):
    with ocp.StandardCheckpointer() as reader:
        leaves = jax.tree_util.tree_leaves_with_path(reader.restore(path.absolute()))
    total = hashlib.sha256()
    for key, x in leaves:
        total.update(f"{key} {x.dtype} {x.shape}".encode() + np.asarray(x).tobytes())
    return total.hexdigest()


def judge(outcome, workdir, expected):
    """How a command ended: (one of the words above but `LOST`, why)."""
    errors = [line for line in outcome.text.splitlines() if line.startswith("error:")]
    if "Traceback" in outcome.text:
        return TRACEBACK, outcome.text
    if outcome.status:
        one = len(errors) == 1
        return (REFUSED, errors[0]) if one else (TRACEBACK, f"{outcome.status}: {outcome.text}")
    try:
        changed = differences(of(workdir), expected)
    except Exception as error:
        return SILENT, f"unreadable: {error!r}"
    warned = [line for line in outcome.text.splitlines() if line.startswith("warning:")]
    named = [name for name in changed if any(name in line for line in warned)]
    if "metrics.jsonl" in named:
        named.append("report/summary.json")  # takes calls from there
    if silent := [name for name in changed if name not in named]:
        return SILENT, ", ".join(silent)
    return (NAMED, ", ".join(changed)) if changed else (EQUAL, "")
