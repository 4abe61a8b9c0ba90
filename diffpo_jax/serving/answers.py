"""What the endpoint answers, in the form of OpenAI's API with the sampler's numbers added."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from diffpo_jax.serving.texts import Answer


class Choice(NamedTuple):
    """A completion, and what it took."""

    answer: Answer
    calls: int  # denoiser calls
    dial: float  # that the sampler used: γ in nats, or another rule's number


def completion(
    model: str, dial: str, choices: Sequence[Choice], prompt_tokens: int
) -> dict[str, Any]:
    """The answer of /v1/completions.

    Args:
      dial: the name of the rule's number.
      prompt_tokens: of all prompts.
    """
    rows = [
        {"text": choice.answer.text, "logprobs": None} | _rest(i, choice, dial)
        for i, choice in enumerate(choices)
    ]
    return _whole("cmpl", "text_completion", model, rows, choices, prompt_tokens)


def chat(model: str, dial: str, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
    """The answer of /v1/chat/completions; arguments as of `completion`."""
    rows = []
    for i, choice in enumerate(choices):
        message = {"role": "assistant", "content": choice.answer.text, "refusal": None}
        rows.append({"message": message, "logprobs": None} | _rest(i, choice, dial))
    return _whole("chatcmpl", "chat.completion", model, rows, choices, prompt_tokens)


def models(names: Sequence[str], created: int) -> dict[str, Any]:
    """The answer of /v1/models."""
    return {"object": "list", "data": [model(name, created) for name in names]}


def model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "diffpo_jax"}


def _rest(index: int, choice: Choice, dial: str) -> dict[str, Any]:
    reason = "stop" if choice.answer.ended else "length"
    return {"index": index, "finish_reason": reason, "calls": choice.calls, dial: choice.dial}


def _whole(
    prefix: str,
    kind: str,
    model: str,
    rows: list[dict[str, Any]],
    choices: Sequence[Choice],
    prompt_tokens: int,
) -> dict[str, Any]:
    written = sum(choice.answer.tokens for choice in choices)
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": rows,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": written,
            "total_tokens": prompt_tokens + written,
            "calls": sum(choice.calls for choice in choices),
        },
    }
