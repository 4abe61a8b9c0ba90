"""Reads requests in the form of OpenAI's API, and refuses what this server cannot do.

A field that would change the answer and is not offered is refused, unless it has the value that
changes nothing; a name that nobody knows is refused too, as it may be a misspelt one.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from diffpo_jax.serving.refusal import Refusal

MOST_CHOICES = 128  # n
MOST_ROWS = 512  # n for each of the prompts
MOST_SEED = 2**31 - 1
MOST_TEMPERATURE = 2.0
_MOST_STOPS = 16

# Of both endpoints; the values are those that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "stream_options": (),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
}
_NEUTRAL_COMPLETION = _NEUTRAL | {
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (),
    "suffix": ("",),
}
_NEUTRAL_CHAT = _NEUTRAL | {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "modalities": (["text"],),
}
_INSTEAD = {
    "stream": "this server does not stream: leave it out, or give false",
    "logprobs": "this server gives no log-probabilities: leave it out",
    "top_p": "tokens are drawn from the whole distribution: leave it out, or give 1",
}
# Fields about the sender, which change no answer.
_ABOUT_SENDER = {"user", "metadata", "store", "service_tier", "safety_identifier"}


class Dial(NamedTuple):
    """The number by which a model's commit rule decides how many tokens a call writes."""

    name: str  # "gamma" (nats), "steps", "confidence" or "price"
    default: float | None  # None: γ that the head learned, for each prompt
    fault: Callable[[float], str]  # what is wrong with a number; "" if nothing is


class Offer(NamedTuple):
    """What a request may ask of a model."""

    dial: Dial
    length: int  # L, tokens of a completion
    temperature: float  # without one in the request


class Wanted(NamedTuple):
    """A request for completions."""

    model: str
    prompts: Sequence[str | Sequence[int]]  # texts, or token ids
    n: int  # completions of each prompt
    most: int  # tokens
    temperature: float
    seed: int | None
    stop: Sequence[str]  # the text ends before the first of them
    dial: float | None  # None: γ that the head learned
    scale: float  # factor on it


def parse(text: bytes) -> dict[str, Any]:
    """The JSON object of a request's body."""
    try:
        body = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"The body is no JSON: {error}.") from error
    if not isinstance(body, dict):
        raise Refusal("The body must be a JSON object.")
    return body


def read_completion(body: Mapping[str, Any], offers: Mapping[str, Offer]) -> Wanted:
    """A request to /v1/completions."""
    _check_fields(body, _NEUTRAL_COMPLETION, {"prompt", "max_tokens"}, offers)
    wanted = _read(body, offers, body.get("max_tokens"), "max_tokens")
    prompts = _prompts(body.get("prompt"))
    if len(prompts) * wanted.n > MOST_ROWS:
        raise Refusal(
            f"prompt: {len(prompts)} prompts with n={wanted.n} are more than {MOST_ROWS} "
            "completions: send them in several requests.",
            "prompt",
        )
    return wanted._replace(prompts=prompts)


def read_chat(
    body: Mapping[str, Any],
    offers: Mapping[str, Offer],
    format_turns: Callable[[list[dict[str, str]]], str],
) -> Wanted:
    """A request to /v1/chat/completions.

    Args:
      format_turns: writes turns as a prompt; raises what is to be told.
    """
    own = {"messages", "max_tokens", "max_completion_tokens"}
    _check_fields(body, _NEUTRAL_CHAT, own, offers)
    name = "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens"
    wanted = _read(body, offers, body.get(name), name)
    return wanted._replace(prompts=[format_turns(_messages(body.get("messages")))])


def number(
    value: Any, name: str, low: float, high: float = math.inf, *, above: bool = False
) -> float:
    """A number of a request within bounds, `low` itself left out if `above`."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not (low < value if above else low <= value) or not value <= high:
        start = f"above {low:g}" if above else f"at least {low:g}"
        bounds = start if high == math.inf else f"{start} and at most {high:g}"
        raise Refusal(f"{name} must be a number {bounds}, not {_shown(value)}.", name)
    if not _is_finite(value):
        raise Refusal(f"{name} must be a finite number.", name)
    return float(value)


def whole(value: Any, name: str, low: int, high: int) -> int:
    """A whole number of a request within bounds, both included."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refusal(
            f"{name} must be a whole number from {low} to {high}, not {_shown(value)}.", name
        )
    return value


def model_of(body: Mapping[str, Any], offers: Mapping[str, Offer]) -> str:
    """The name of the model that a request asks for; it may be left out if there is only one."""
    name = body.get("model")
    if name is None and len(offers) == 1:
        return next(iter(offers))
    if not isinstance(name, str) or name not in offers:
        text = "model is missing" if name is None else f"There is no model {_shown(name)}"
        raise Refusal(f"{text}; use one of: {', '.join(offers)}.", "model", code="model_not_found")
    return name


def dial_of(body: Mapping[str, Any], model: str, offer: Offer) -> tuple[float | None, float]:
    """The dial of a request, None for the learned γ, and the factor on the learned γ."""
    name, default, fault_of = offer.dial
    dial, scale = body.get(name), body.get("scale")
    if dial is not None:
        dial = number(dial, name, 0)
        if fault := fault_of(dial):
            raise Refusal(f"{name}={dial:g} {fault}.", name)
    if scale is None:
        return (default if dial is None else dial), 1.0
    if default is not None:
        raise Refusal(
            f"scale: model {model!r} has learned no gamma to scale: give {name}.", "scale"
        )
    if dial is not None:
        raise Refusal(
            f"scale is of the learned gamma, which {name} replaces: give one of them.", "scale"
        )
    return None, number(scale, "scale", 0, above=True)


def text(value: Any, name: str) -> str:
    """A text of a request, which may not be empty and must be valid Unicode."""
    if not isinstance(value, str):
        raise Refusal(f"{name} must be a text, not {_shown(value)}.", name)
    if not value:
        raise Refusal(f"{name} is empty: the model needs at least one token.", name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refusal(
            f"{name} has half of a surrogate pair, which is no character.", name
        ) from error
    return value


def _read(
    body: Mapping[str, Any], offers: Mapping[str, Offer], most: Any, name_of_most: str
) -> Wanted:
    """What both endpoints have, without prompts."""
    model = model_of(body, offers)
    offer, seed, n = offers[model], body.get("seed"), body.get("n")
    temperature = body.get("temperature")
    dial, scale = dial_of(body, model, offer)
    return Wanted(
        model,
        (),
        1 if n is None else whole(n, "n", 1, MOST_CHOICES),
        offer.length if most is None else whole(most, name_of_most, 1, offer.length),
        offer.temperature
        if temperature is None
        else number(temperature, "temperature", 0, MOST_TEMPERATURE),
        None if seed is None else whole(seed, "seed", 0, MOST_SEED),
        _stops(body.get("stop")),
        dial,
        scale,
    )


def _check_fields(
    body: Mapping[str, Any],
    neutral: Mapping[str, tuple[Any, ...]],
    own: set[str],
    offers: Mapping[str, Offer],
) -> None:
    """Refuses fields that are not offered."""
    dials = {offer.dial.name for offer in offers.values()}
    known = own | {"model", "n", "temperature", "seed", "stop", "scale"} | dials
    for name, value in body.items():
        if name in known or name in _ABOUT_SENDER or value is None:
            continue
        if name not in neutral:
            raise Refusal(f"There is no field {_shown(name)}.", name[:80])
        if not any(type(value) is type(x) and value == x for x in _with_floats(neutral[name])):
            instead = _INSTEAD.get(name, "this server does not offer it: leave it out")
            raise Refusal(f"{name}: {instead}.", name)
    wrong = (dials - {offers[model_of(body, offers)].dial.name}) & body.keys()
    if wrong := [name for name in sorted(wrong) if body[name] is not None]:
        model = model_of(body, offers)
        raise Refusal(
            f"{wrong[0]}: model {model!r} is dialled by {offers[model].dial.name}.", wrong[0]
        )


def _with_floats(values: tuple[Any, ...]) -> list[Any]:
    """JSON's 1 and 1.0 are one number."""
    return [*values, *(float(x) for x in values if type(x) is int)]


def _prompts(value: Any) -> list[str | list[int]]:
    if isinstance(value, str):
        return [text(value, "prompt")]
    if not isinstance(value, list) or not value:
        raise Refusal(
            "prompt must be a text, a list of texts, or token ids, and not empty.", "prompt"
        )
    if all(_is_id(x) for x in value):
        return [value]
    if len(value) > MOST_ROWS:
        raise Refusal(f"prompt: {len(value)} prompts are more than {MOST_ROWS}.", "prompt")
    if all(isinstance(x, list) and x and all(map(_is_id, x)) for x in value):
        return value
    return [text(x, f"prompt[{i}]") for i, x in enumerate(value)]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _messages(value: Any) -> list[dict[str, str]]:
    """Turns of a chat with "role" and "content" alone; a content may come in parts of text."""
    if not isinstance(value, list) or not value:
        raise Refusal("messages must be a list of messages, and not empty.", "messages")
    turns = []
    for i, message in enumerate(value):
        where = f"messages[{i}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal(f"{where} must be an object with a role and a content.", "messages")
        content = message.get("content")
        if isinstance(content, list):
            parts = [x.get("text") if isinstance(x, dict) else None for x in content]
            if not all(isinstance(part, str) for part in parts):
                raise Refusal(f"{where}.content has a part that is no text.", "messages")
            content = "".join(parts)
        turns.append({"role": message["role"], "content": text(content, f"{where}.content")})
    if turns[-1]["role"] == "assistant":
        raise Refusal("messages: the last one must not be the assistant's own.", "messages")
    return turns


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    good = isinstance(stops, list) and len(stops) <= _MOST_STOPS
    if not good or not all(isinstance(x, str) and x for x in stops):
        raise Refusal(f"stop must be a text, or a list of up to {_MOST_STOPS} of them.", "stop")
    return tuple(stops)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of floats
        return False


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _shown(value: Any) -> str:
    """A value of a request in a message: as JSON, cut short."""
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
