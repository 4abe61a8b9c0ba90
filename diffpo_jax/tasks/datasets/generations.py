"""Reads completions that were written before, to grade them again.

Two forms of file:
  - JSON lines as a run writes them to samples/: `id`, `prompt`, `completion` and `meta`, the values
    that the task's grader needs.
  - JSON as d1's evaluation writes it: a list `generations` of objects with `question`,
    `generations` (one text) and `ground_truth`.
"""

import hashlib
import json
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffpo_jax.system import reading
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import hub
from diffpo_jax.tasks.task import Example


class Generation(NamedTuple):
    """One completion, the example it answers, and its place: "FILE: line 3"."""

    example: Example
    completion: str
    where: str


def read(path: str, task: str) -> list[Generation]:
    """All completions of a file, in order.

    Args:
      task: the name of the task, which d1's files do not contain.

    Raises:
      UserError: a file that cannot be read or has neither form, with its line.
    """
    where = f"--file={path}"
    reading.check_file(path, where, reading.MOST_BYTES)
    try:
        whole = json.loads(pathlib.Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where} cannot be read: {error}.") from error
    except (ValueError, RecursionError):
        whole = None  # several lines, or a fault that is reported with its line
    if isinstance(whole, dict) and "generations" in whole:
        return _read_d1(whole["generations"], where, task)
    generations = []
    for row in hub.read_file(pathlib.Path(path), where, suffix=".jsonl"):
        values, needed = row.values, _META[task][0] if task in _META else {}
        _check_fields(values, {"id": str, "completion": str, "meta": dict}, row.where)
        _check_fields(values["meta"], needed, f"{row.where}: 'meta'")
        if "numbers" in needed and not all(type(x) is int for x in values["meta"]["numbers"]):
            raise UserError(
                f"{row.where}: 'meta': field 'numbers' must be a list of whole numbers."
            )
        example = Example(values["id"], str(values.get("prompt", "")), "", values["meta"])
        generations.append(_generation(example, values["completion"], row.where))
    if not generations:
        raise UserError(f"{where} has no completion.")
    return generations


def _read_d1(rows: Any, where: str, task: str) -> list[Generation]:
    if task not in _META or _META[task][1] is None:
        raise UserError(f"{where} has d1's form, which does not exist for task {task!r}.")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{where}: 'generations' must be a list of objects.")
    generations = []
    for number, row in enumerate(rows, 1):
        place = f"{where}: generation {number}"
        _check_fields(row, {"question": str, "generations": str, "ground_truth": object}, place)
        question, truth = row["question"], row["ground_truth"]
        try:
            meta = _META[task][1](question, truth)
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            raise UserError(
                f"{place}: question or ground_truth {truth!r:.80} does not belong to task {task!r}."
            ) from error
        digest = hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()
        prompt = str(row.get("prompt_input", question))
        example = Example(f"{task}/d1/{digest[:16]}", prompt, "", meta)
        generations.append(_generation(example, row["generations"], place))
    return generations


def _generation(example: Example, completion: str, where: str) -> Generation:
    # JSON can hold halves of surrogate pairs, which cannot be written to a file again.
    text = completion.encode("utf-8", "replace").decode("utf-8")
    return Generation(example, text, where.removeprefix("--file="))


def _check_fields(row: Any, fields: Mapping[str, type], where: str) -> None:
    if not isinstance(row, dict):
        raise UserError(f"{where} must be an object with the fields {', '.join(fields)}.")
    for name, kind in fields.items():
        if name not in row:
            names = ", ".join(map(str, row)) or "none"
            raise UserError(f"{where} has no field {name!r}. Its fields: {names}.")
        if not isinstance(row[name], kind):
            noun = {str: "text", dict: "an object", list: "a list", int: "a whole number"}[kind]
            raise UserError(f"{where}: field {name!r} must be {noun}; it is {row[name]!r:.80}.")


def _number(_: str, truth: Any) -> dict[str, Any]:
    if isinstance(truth, float) and not math.isfinite(truth):
        raise ValueError("the answer is not finite")
    if isinstance(truth, bool) or not isinstance(truth, str | int | float):
        raise TypeError("the answer is no number")
    return {"answer": f"{truth:.12g}" if isinstance(truth, float) else str(truth)}


def _expression(_: str, truth: Any) -> dict[str, Any]:
    if not isinstance(truth, str):
        raise TypeError("the answer is not text")
    return {"answer": truth}


def _grid(question: str, truth: Any) -> dict[str, Any]:
    """The clues are in the question: as many digits as the solution has."""
    clues = re.findall(rf"(?<![0-9])[0-9]{{{len(truth)}}}(?![0-9])", question)[-1]
    if not re.fullmatch("[1-9]{16}|[1-9]{81}", truth):
        raise ValueError("the solution is not a grid")
    return {"clues": clues, "solution": truth}


def _instance(_: str, truth: Any) -> dict[str, Any]:
    numbers, target = truth
    return {"numbers": [int(n) for n in numbers], "target": int(target)}


# By task: the fields of `meta` that the grader needs, and a function that makes them from d1's
# question and ground truth, or None if d1 does not have the task.
_META: dict[str, tuple[dict[str, type], Callable[[str, Any], dict[str, Any]] | None]] = {
    "gsm8k": ({"answer": str}, _number),
    "math500": ({"answer": str}, _expression),
    "sudoku": ({"clues": str, "solution": str}, _grid),
    "countdown": ({"numbers": list, "target": int}, _instance),
    "jsonl": ({"answer": str}, None),
}
