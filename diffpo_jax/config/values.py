"""The values that a field may hold, read from its annotation.

    clip: Literal["ppo", "unconditional"]            one of these words
    length: Annotated[int, Bound("above 0", ...)]    an integer with a bound
    slots: Annotated[int | None, Was(0)]             an integer or None; older versions wrote 0

`coerce` turns a given value into a field's; `check_fields` checks a finished configuration.
"""

import ast
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from diffpo_jax.system.errors import UserError

_NONE = type(None)
# The devices' numbers: int32 and float32.
_LARGEST_INT, _LARGEST_FLOAT = 2**31 - 1, 3.4e38
_UNIONS = (typing.Union, types.UnionType)


class Bound(NamedTuple):
    """A condition on a value."""

    words: str  # the condition as it follows "must be"
    holds: Callable[[Any], bool]


class Unlimited(NamedTuple):
    """Marks a number that may be infinite, where that means "no limit"."""


class Was(NamedTuple):
    """A value that older versions wrote, and the one that replaced it."""

    old: Any
    new: Any = None


@functools.cache
def annotations(section: type) -> dict[str, Any]:
    """The annotations of a section's fields by name, in the order of the fields."""
    return typing.get_type_hints(section, include_extras=True)


@functools.cache
def all_annotations(section: type) -> dict[str, Any]:
    """The annotations of a section's fields and of all sections in it, by dotted name."""
    result: dict[str, Any] = {}
    for name, hint in annotations(section).items():
        if dataclasses.is_dataclass(hint):
            result |= {f"{name}.{field}": h for field, h in all_annotations(hint).items()}
        else:
            result[name] = hint
    return result


def kinds(hint: Any) -> set[type]:
    """The Python types of a field's values, such as {int, NoneType}."""
    inner, origin, parts, _ = _split(hint)
    if origin in _UNIONS:
        return set().union(*map(kinds, parts))
    return set(map(type, parts)) if origin is Literal else {origin or inner}


def describe(hint: Any) -> str:
    """The values of a field in words: "int (above 0) or None"."""
    *first, last = _alternatives(hint)
    return f"{', '.join(first)} or {last}" if first else last


def parse(hint: Any, text: str) -> Any:
    """A value that is given as text: a Python literal unless the field holds text only.

    One value stands for a list of one, as on the command line.
    """
    if kinds(hint) - {_NONE} == {str}:
        return text
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = text  # a word, or a fault that `coerce` reports
    single = kinds(hint) == {tuple} and not isinstance(value, tuple | list)
    return (value,) if single else value


def current(hint: Any, value: Any) -> Any:
    """The value, or its replacement if it is one that only older versions wrote."""
    given = tuple(value) if isinstance(value, list) else value
    for mark in _split(hint)[-1]:
        if isinstance(mark, Was) and type(given) is type(mark.old) and given == mark.old:
            return mark.new
    return value


def former_values(section: Any) -> dict[str, Any]:
    """A section in the form that older versions wrote, so that hashes of it do not change."""
    result = {}
    for name, hint in annotations(type(section)).items():
        value = getattr(section, name)
        result[name] = former_values(value) if dataclasses.is_dataclass(value) else value
        for mark in _split(hint)[-1]:
            if isinstance(mark, Was) and value == mark.new:
                result[name] = mark.old
    return result


def replace_field(section: Any, name: str, value: Any) -> Any:
    """The section with another value in the field of a dotted name."""
    first, _, rest = name.partition(".")
    if rest:
        value = replace_field(getattr(section, first), rest, value)
    return dataclasses.replace(section, **{first: value})


def coerce(hint: Any, value: Any, path: str) -> Any:
    """The value that a field holds if it is given `value`.

    Values of older versions become today's, ints floats, and lists tuples.  "None" and (None,)
    become None: that is what ml_collections makes of --config.FIELD=None.

    Args:
      path: the field in messages, such as "config.rl.steps".

    Raises:
      UserError: a wrong type, an unknown choice, or a value outside its bounds.
    """
    inner, origin, parts, marks = _split(hint)
    result = value = current(hint, tuple(value) if isinstance(value, list) else value)
    if origin in _UNIONS:
        result = _coerce_to_one(hint, parts, value, path)
    elif origin is Literal:
        if value not in parts:
            allowed = ", ".join(map(str, parts))
            raise UserError(f"{path}={value!r:.80} is unknown; use one of: {allowed}.")
    elif origin is tuple and isinstance(value, tuple):
        result = tuple(coerce(parts[0], x, f"{path}[{i}]") for i, x in enumerate(value))
    else:
        if type(value) is int and inner in (int, float) and abs(value) > _LARGEST_INT:
            raise UserError(f"{path}={value!r:.24} is too large: at most {_LARGEST_INT}.")
        if inner is float and type(value) is int:
            result = float(value)
        if type(result) is not inner:
            raise UserError(f"{path}={value!r:.80} must be {describe(hint)}.")
        if inner is float:
            _check_size(result, any(isinstance(mark, Unlimited) for mark in marks), path)
    for mark in marks:
        if isinstance(mark, Bound) and not mark.holds(result):
            raise UserError(f"{path}={result!r:.80} must be {mark.words}.")
    return result


def check_fields(section: Any, where: str) -> None:
    """Checks every field of a section and of the sections in it, however they were built.

    Args:
      where: the section in messages, such as "config".

    Raises:
      UserError: a wrong value, also one that only older versions wrote.
    """
    for name, hint in annotations(type(section)).items():
        value, path = getattr(section, name), f"{where}.{name}"
        if dataclasses.is_dataclass(hint):
            check_fields(value, path)
        elif (new := current(hint, value)) is not value:
            raise UserError(f"{path}={value!r} must be {new!r}.")
        else:
            coerce(hint, value, path)


def _check_size(value: float, unlimited: bool, path: str) -> None:
    if math.isnan(value):
        raise UserError(f"{path} is NaN.")
    if abs(value) > _LARGEST_FLOAT and not (unlimited and math.isinf(value)):
        raise UserError(f"{path}={value} must be finite, and at most {_LARGEST_FLOAT:g}.")


def _coerce_to_one(hint: Any, members: tuple[Any, ...], value: Any, path: str) -> Any:
    """The value as the first type of a union that takes it."""
    if _NONE in members and value in (None, "None", (None,)):
        return None
    others = [member for member in members if member is not _NONE]
    for member in others:
        try:
            return coerce(member, value, path)
        except UserError:
            # The message of the only type that the value could be of says more than the one below.
            if len(others) == 1 or (isinstance(value, tuple) and tuple in kinds(member)):
                raise
    raise UserError(f"{path}={value!r:.80} must be {describe(hint)}.")


def _alternatives(hint: Any) -> list[str]:
    inner, origin, parts, marks = _split(hint)
    if origin in _UNIONS:
        return [words for part in parts for words in _alternatives(part)]
    if origin is Literal:
        return list(map(str, parts))
    text = f"list of {describe(parts[0])}" if origin is tuple else inner.__name__
    text = "None" if inner is _NONE else text
    bounds = [mark.words for mark in marks if isinstance(mark, Bound)]
    return [f"{text} ({', '.join(bounds)})" if bounds else text]


def _split(hint: Any) -> tuple[Any, Any, tuple[Any, ...], tuple[Any, ...]]:
    """An annotation without its marks, its origin and arguments, and the marks."""
    inner, marks = hint, ()
    if typing.get_origin(hint) is Annotated:
        inner, marks = hint.__origin__, hint.__metadata__
    return inner, typing.get_origin(inner), typing.get_args(inner), marks
