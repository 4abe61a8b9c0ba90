"""Evaluations of a run with other settings than its own: WORKDIR/evaluations/NAME.

Each has settings.json, config.json, run_info.json and samples/, and its results: report/ if the
command `main` made it, evaluation.json if `evaluate` did.  The run's own files stay as they are.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from diffpo_jax.system import files
from diffpo_jax.workdir.layout import Workdir

BOTH = "both"  # the base and the trained model, as at the end of a run

_SETTINGS = "settings.json"
_LONGEST = 48  # characters of a name before its digest
# `evaluate` takes these from the run, whatever the configuration says.
_OF_THE_RUN = ("model.", "lora.", "threshold.", "state_head.", "tokenizer.", "init_from")


def settings(changes: Mapping[str, Any], which: str) -> dict[str, Any]:
    """What tells an evaluation from others of the run: the model, and the fields that differ.

    Args:
      changes: `convert.evaluation_changes` from the run's configuration.
      which: `BOTH`, "trained" or "base".
    """
    own = {field: x for field, x in changes.items() if not field.startswith(_OF_THE_RUN)}
    return {"model": which, "changes": own}


def name(settings: Mapping[str, Any]) -> str:
    """The name of an evaluation: its settings in short, and a digest that tells all of them."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    words = [] if settings["model"] == BOTH else [settings["model"]]
    for field, value in settings["changes"].items():
        items = value if isinstance(value, list) else [value]
        text = "-".join(map(str, items)) or "none"
        words += [field.rpartition(".")[2], text.rpartition("/")[2]]
    short = re.sub("[^A-Za-z0-9._-]+", "-", "-".join(words))[:_LONGEST]
    return f"{short.strip('.-')}-{digest}"


def paths(run: Workdir, settings: Mapping[str, Any]) -> Workdir:
    """The paths of an evaluation: what it writes is its own; data and metrics are the run's."""
    own = Workdir(run.evaluations / name(settings))
    own.metrics, own.data = run.metrics, run.data
    return own


def record(own: Workdir, settings: Mapping[str, Any]) -> None:
    """Writes settings.json, by which a page about the run tells its evaluations apart."""
    files.write_json(own.root / _SETTINGS, settings)


def all_settings(run: Workdir) -> list[pathlib.Path]:
    """The files settings.json of a run's evaluations, by name."""
    return sorted(run.evaluations.glob(f"*/{_SETTINGS}"))


def in_words(settings: Mapping[str, Any]) -> str:
    """The fields that differ, as "evaluation.examples=64, task.test_file=rows.csv"."""
    return ", ".join(f"{name}={value}" for name, value in settings["changes"].items())
