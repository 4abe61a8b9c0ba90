"""Completions that others, or earlier runs, have written: read from files, to be graded again.

Two forms of file:
  - JSON lines as a run writes them to samples/: `id`, `prompt`, `completion` and `meta`, what the
    task's grader needs.
  - JSON as d1's evaluation writes it: a list `generations` of objects with `question`,
    `generations` (one text) and `ground_truth`.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import Example


class Generation(NamedTuple):
    """One completion, the example it answers, and its place: "FILE: line 3"."""

    example: Example
    completion: str
    where: str


def read(path: str, task: str) -> list[Generation]:
    """All completions of a file, in order.

    Args:
      task: its name; d1's files do not tell.

    Raises:
      UserError: a file that cannot be read or is of neither form, with its line.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--file={path} cannot be read: {error}.") from error
    if not text.strip():
        raise UserError(f"--file={path} holds no completion.")
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None  # several lines, or a fault that its line will tell
    if isinstance(whole, dict) and "generations" in whole:
        return _of_d1(whole["generations"], path, task)
    return _of_samples(text, path, task)


def _of_samples(text: str, path: str, task: str) -> list[Generation]:
    found = []
    # Not splitlines: JSON may hold other line ends, such as U+2028, within a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            fault = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
            raise UserError(f"--file={where} is not JSON: {fault}.") from error
        _must_have(row, {"id": str, "completion": str, "meta": dict}, where)
        _must_have(row["meta"], _NEEDED.get(task, {}), f"{where}: 'meta'")
        example = Example(row["id"], str(row.get("prompt", "")), "", row["meta"])
        found.append(Generation(example, _valid(row["completion"]), where))
    return found


def _of_d1(rows: Any, path: str, task: str) -> list[Generation]:
    if task not in _META:
        raise UserError(f"--file={path} is of d1's form, which has no task {task!r}.")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"--file={path}: its 'generations' must be a list of objects.")
    found = []
    for number, row in enumerate(rows, 1):
        where = f"{path}: generation {number}"
        _must_have(row, {"question": str, "generations": str, "ground_truth": object}, where)
        try:
            meta = _META[task](row["question"], row["ground_truth"])
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise UserError(
                f"--file={where}: its question or its ground_truth {row['ground_truth']!r:.80} is "
                f"none of task {task!r}."
            ) from error
        digest = hashlib.sha256(row["question"].encode("utf-8", "surrogatepass")).hexdigest()
        prompt = str(row.get("prompt_input", row["question"]))
        example = Example(f"{task}/d1/{digest[:16]}", prompt, "", meta)
        found.append(Generation(example, _valid(row["generations"]), where))
    return found


def _must_have(row: Any, fields: Mapping[str, type], where: str) -> None:
    if not isinstance(row, dict):
        raise UserError(f"--file={where} must be an object with the fields {', '.join(fields)}.")
    for name, kind in fields.items():
        if name not in row:
            there = ", ".join(map(str, row)) or "none"
            raise UserError(f"--file={where} has no field {name!r}. Its fields: {there}.")
        if not isinstance(row[name], kind):
            what = {str: "text", dict: "an object", list: "a list", int: "a whole number"}[kind]
            raise UserError(
                f"--file={where}: field {name!r} must be {what}; it is {row[name]!r:.80}."
            )


def _valid(text: str) -> str:
    """JSON can hold halves of surrogate pairs, which cannot be written to a file again."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _number(question: str, truth: Any) -> dict[str, Any]:
    del question
    return {"answer": f"{truth:.12g}" if isinstance(truth, float) else str(truth)}


def _expression(question: str, truth: Any) -> dict[str, Any]:
    del question
    if not isinstance(truth, str):
        raise TypeError("the answer is no text")
    return {"answer": truth}


def _grid(question: str, truth: Any) -> dict[str, Any]:
    """The clues stand in the question: as many digits as the solution has."""
    clues = re.findall(rf"(?<![0-9])[0-9]{{{len(truth)}}}(?![0-9])", question)[-1]
    if not re.fullmatch("[1-9]{16}|[1-9]{81}", truth):
        raise ValueError("the solution is no grid")
    return {"clues": clues, "solution": truth}


def _countdown(question: str, truth: Any) -> dict[str, Any]:
    del question
    numbers, target = truth
    return {"numbers": [int(n) for n in numbers], "target": int(target)}


# By task: what its grader needs to have in `meta`, and how that follows from d1's question and
# ground truth.
_NEEDED = {
    "gsm8k": {"answer": str},
    "math500": {"answer": str},
    "sudoku": {"clues": str, "solution": str},
    "countdown": {"numbers": list, "target": int},
}
_META: dict[str, Callable[[str, Any], dict[str, Any]]] = {
    "gsm8k": _number,
    "math500": _expression,
    "sudoku": _grid,
    "countdown": _countdown,
}
