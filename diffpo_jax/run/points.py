"""The points of a final evaluation, kept on disk until its report is written.

An evaluation that was ended takes up those that it has, and evaluates the others.
"""

import hashlib
import io
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence

import numpy as np

from diffpo_jax.arrays.types import Rollout
from diffpo_jax.config import convert
from diffpo_jax.distributed import hosts
from diffpo_jax.evaluation import grading
from diffpo_jax.run.setup import Setup
from diffpo_jax.system import files
from diffpo_jax.system.errors import during
from diffpo_jax.tasks.task import Example
from diffpo_jax.workdir import layout, provenance

_ASKED = "asked"  # beside the fields of the rollouts in a file


class Points:
    """The points of one evaluation by name; those of another configuration or code are none."""

    def __init__(self, setup: Setup, examples: Sequence[Example]):
        """
        Args:
          examples: those of the evaluation, each once.
        """
        self._setup = setup
        self._rows = [x for x in examples for _ in range(setup.config.evaluation.samples)]
        reads = {name: value.sha256 for name, value in setup.inputs.items()}
        asked = [convert.to_json(setup.config), reads, provenance.commit()]
        self._asked = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def get(self, name: str, evaluate: Callable[[], grading.Graded]) -> grading.Graded:
        """A point that is there already, graded again, or the one that `evaluate` gives."""
        path = self._setup.workdir.points / f"{name.replace('/', '-')}.npz"
        found = self._read(path)
        # On a mounted bucket a file may not have come to all hosts yet.
        if all(hosts.gather(found is not None)):
            return grading.grade(found, self._rows, self._setup.task, self._setup.tokenizer)
        with during(f"final evaluation, point {name}"):
            graded = evaluate()
        if hosts.is_first():
            self._write(path, graded.rollout)
        return graded

    def _read(self, path: pathlib.Path) -> Rollout | None:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, EOFError):
            return None
        same = str(arrays.pop(_ASKED, "")) == self._asked
        return Rollout(**arrays) if same else None

    def _write(self, path: pathlib.Path, rollout: Rollout) -> None:
        arrays = {name: x for name, x in rollout._asdict().items() if x is not None}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, **{_ASKED: np.array(self._asked)})
        files.write_atomic(path, buffer.getvalue())


def remove(workdir: layout.Workdir) -> None:
    """Removes the points of an evaluation whose report is written."""
    shutil.rmtree(workdir.points, ignore_errors=True)
