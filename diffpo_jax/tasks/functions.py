"""Functions of the user's, which the configuration names as package.module:function.

A function is called with (example, text), where text is a completion or an answer, and returns a
number, or a mapping of names to numbers that are added up.  Its module is looked for in the current
directory too.  With `function.parallel = True` it runs in worker processes under a time limit.
"""

import hashlib
import importlib
import inspect
import math
import os
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.answers import workers
from diffpo_jax.tasks.task import Example

_MOST_WORKERS = 16


class Function:
    """A function of the user's, whose results are checked.

    Attributes:
      name: the function's name, without its module.
      largest: the largest result: the function's attribute `reward_max`, or 1.
      given_up: the number of calls so far that took too long or killed their worker; None if no
        call has a time limit.
    """

    def __init__(self, spec: str, field: str, *, limit_s: float, processes: int | None):
        """Imports the function.

        Args:
          spec: "package.module:function".
          field: the configuration field that holds it, for messages.
          limit_s: time limit of a call in a worker process, in seconds.
          processes: the most worker processes, None for one per core.

        Raises:
          UserError: the module cannot be imported, or has no such function; its attribute
            `reward_max` is not a number above 0.
        """
        self._where, self._limit_s = f"{field}={spec}", limit_s
        call = load(spec, field)
        self.name = spec.rpartition(":")[2]
        self.largest = getattr(call, "reward_max", 1.0)
        if not _is_number(self.largest) or not 0 < self.largest < math.inf:
            raise UserError(
                f"{self._where}: its attribute reward_max={self.largest!r} must be a number above "
                "0, the largest value that it returns."
            )
        self.given_up: int | None = None
        self._names: tuple[str, ...] | None = None  # of the results, which all must have
        self._call, self._pool = call, None
        if getattr(call, "parallel", False):
            cores = min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
            self._pool = workers.Pool(spec, workers=processes or cores, limit_s=limit_s)
            self.given_up = 0

    def values(self, examples: Sequence[Example], texts: Sequence[str]) -> list[dict[str, float]]:
        """The results by name: first the sum under the function's own name, then its parts.

        A call that takes too long, or kills its worker, counts as 0 and is logged.

        Raises:
          UserError: the function raises, or returns what it may not.
        """
        pairs = list(zip(examples, texts, strict=True))
        if self._pool is None:
            return [self._checked(self._try(*pair), *pair) for pair in pairs]
        outcomes = self._pool.map(pairs)
        return [self._from_worker(outcome, *pair) for outcome, pair in zip(outcomes, pairs)]

    def _try(self, example: Example, text: str) -> Any:
        try:
            return self._call(example, text)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{pathlib.Path(frame.filename).name}, line {frame.lineno}"
            if frame.filename == __file__:  # the call itself failed
                place = "it is called as function(example, text), see docs/tasks.md"
            fault = f"{type(error).__name__}: {_one_line(error)} ({place})"
            raise self.error(f"raised {fault}", example, text) from error

    def _from_worker(
        self, outcome: workers.Outcome, example: Example, text: str
    ) -> dict[str, float]:
        if not outcome.failure:
            return self._checked(outcome.value, example, text)
        if outcome.failure not in ("timeout", "died"):
            fault = _one_line(outcome.failure.removeprefix("error: "))
            raise self.error(f"raised {fault}", example, text)
        self.given_up += 1
        logging.warning(
            "%s: its worker %s on %s and %r. It counts as 0.",
            self._where,
            f"took over {self._limit_s} s" if outcome.failure == "timeout" else "died",
            example.id,
            text[:200],
        )
        return dict.fromkeys(self._names or (self.name,), 0.0)

    def _checked(self, value: Any, example: Example, text: str) -> dict[str, float]:
        mapping = isinstance(value, Mapping)
        parts = value if mapping else {self.name: value}
        fault = f"returned {_shown(value)}"
        if not all(isinstance(name, str) and _is_number(x) for name, x in parts.items()):
            fault += " and not a number, or names with numbers"
            raise self.error(fault, example, text)
        result = {name: float(part) for name, part in parts.items()}
        if mapping:
            if self.name in result:
                fault += f": no part may have the function's own name, {self.name!r}"
                raise self.error(fault, example, text)
            result = {self.name: math.fsum(result.values()), **result}
        if not all(map(math.isfinite, result.values())):
            raise self.error(f"{fault}, which is not finite", example, text)
        self._names = self._names or tuple(result)
        if set(self._names) != set(result):
            names = ", ".join(self._names[1:]) or "a plain number"
            raise self.error(f"{fault}, and {names} before: names must not change", example, text)
        return {name: result[name] for name in self._names}

    def check_largest(self, value: float, example: Example, text: str) -> None:
        """Raises `UserError` if a result is above `largest`, apart from rounding."""
        if value > self.largest * (1 + 1e-6):
            raise self.error(
                f"returned {value:g}, above its largest value {self.largest:g}; say below the "
                f"function: {self.name}.reward_max = {value:g}, or what the largest is",
                example,
                text,
            )

    def error(self, fault: str, example: Example, text: str) -> UserError:
        """What to raise if the result for a text is not what it must be."""
        return UserError(f"{self._where} {fault}, for {example.id} and the text {text!r:.120}.")


def is_function(name: str | None) -> bool:
    """Whether a name of the configuration is that of a function."""
    return name is not None and ":" in name


def load(spec: str, field: str) -> Callable[..., Any]:
    """Imports the function or class "package.module:name".  Raises like `Function`."""
    module, name = _module(spec, field), spec.rpartition(":")[2]
    function = getattr(module, name, None)
    if not callable(function):
        own = [
            key
            for key, value in vars(module).items()
            if (inspect.isfunction(value) or inspect.isclass(value))
            and value.__module__ == module.__name__
        ]
        raise UserError(
            f"{field}={spec}: {getattr(module, '__file__', module.__name__)} has no {name!r}. Its "
            f"functions and classes: {', '.join(own) or 'none'}."
        )
    return function


def source(spec: str, field: str) -> tuple[str, str]:
    """The name and the SHA-256 of the file that defines a function.  Raises like `Function`.

    Modules that it imports do not count.
    """
    file = inspect.getsourcefile(_module(spec, field))
    if file is None:
        return spec.partition(":")[0], ""
    path = pathlib.Path(file)
    return path.name, hashlib.sha256(path.read_bytes()).hexdigest()


def _module(spec: str, field: str) -> types.ModuleType:
    module, _, name = spec.rpartition(":")
    where, here = f"{field}={spec}", os.getcwd()
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise UserError(f"{where} must have the form package.module:function.")
    if not {"", here} & set(sys.path):
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise UserError(
            f"{where} cannot be imported: {type(error).__name__}: {_one_line(error)}. Modules are "
            f"looked for in the current directory, {here}, and among the installed packages."
        ) from error


def _is_number(value: Any) -> bool:
    """Whether a value is a number, of numpy or another library too, and not text."""
    if isinstance(value, str | bytes) or value is None:
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:120]


def _one_line(error: Exception | str) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".")[:300] if text else "no message"
