"""The page: what it is filled with, what it asks for, and what it is told call by call."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import jinja2

from diffpo_jax.report import decode_order
from diffpo_jax.report.decode_order import Completion
from diffpo_jax.serving import requests
from diffpo_jax.serving.batch import Written
from diffpo_jax.serving.refusal import Refusal
from diffpo_jax.serving.site import Running, Site
from diffpo_jax.tasks.task import Example

_LABELS = {
    "gamma": "Threshold \N{GREEK SMALL LETTER GAMMA}",
    "price": "Price of calls",
    "steps": "Calls",
    "confidence": "Confidence",
}


class Writing(NamedTuple):
    """What the page asks a model to write."""

    model: str
    prompt: str
    dial: float | None  # None for the learned γ
    scale: float
    example: Example | None  # of the test set, if the prompt is its own


def render(site: Site) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        # Colours and the form of completions are those of the pages about runs.
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("diffpo_jax.serving"), jinja2.PackageLoader("diffpo_jax.report")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    models = [
        {
            "name": name,
            "dial": offer.dial.name,
            "label": _LABELS[offer.dial.name],
            "unit": " nats" if offer.dial.name == "gamma" else "",
            "learned": offer.dial.default is None,
            "values": list(site.sliders[name].values),
            "start": site.sliders[name].start,
            "what": site.sliders[name].what,
        }
        for name, offer in site.offers.items()
    ]
    first = site.examples[0].prompt if site.examples else ""
    page = environment.get_template("page.html").render(
        title=site.title, models=models, examples=len(site.examples), first=first
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def read(body: Mapping[str, Any], site: Site) -> Writing:
    """A request of the page.  Raises `Refusal` like the readers of `requests`."""
    model = requests.model_of(body, site.offers)
    dial, scale = requests.dial_of(body, model, site.offers[model])
    prompt = requests.text(body.get("prompt"), "prompt")
    if fault := site.fault_of(prompt):
        raise Refusal(f"The prompt {fault}.", "prompt")
    example, count = body.get("example"), len(site.examples)
    if example is not None:
        example = site.examples[requests.whole(example, "example", 1, count) - 1]
    same = example is not None and example.prompt == prompt
    return Writing(model, prompt, dial, scale, example if same else None)


async def events(site: Site, wanted: Writing, running: Running) -> AsyncIterator[dict[str, Any]]:
    """What the page is told: a line at the start, one after each call, and one at the end."""
    length = site.offers[wanted.model].length
    # Whether it will be a board is seen from one that has a digit in every cell.
    shown = site.task.lay_out(wanted.prompt, "0" * length)
    board = shown.columns > 0 and not site.prompt.prefill
    yield {
        "length": length,
        "columns": shown.columns if board else 0,
        "box": shown.box if board else 0,
    }
    told = 0
    async for _, written in running.calls():
        new = [i for i, call in enumerate(written.commit_call) if told < call <= written.call]
        yield {"call": written.call, "tokens": [_token(site, written, i) for i in new]}
        told = written.call
    yield await asyncio.to_thread(_end, site, wanted, written)


def _token(site: Site, written: Written, place: int) -> dict[str, Any]:
    return {
        "place": place,
        "piece": site.texts.piece(int(written.tokens[place])),
        "probability": round(math.exp(written.logprob[place]), 6),
        "entropy": round(float(written.entropy[place]), 6),
    }


def _end(site: Site, wanted: Writing, written: Written) -> dict[str, Any]:
    """The line at the end, with the verdict of the task."""
    prefill, offer = site.prompt.prefill, site.offers[wanted.model]
    text = prefill + site.texts.answer(written, offer.length).text
    completion = Completion(
        prompt=wanted.prompt,
        pieces=[site.texts.piece(int(token)) for token in written.tokens],
        calls=written.commit_call.tolist(),
        sampled=(written.commit_call <= written.call).tolist(),
        probabilities=[],
        entropies=[],
        text=text,
        nfe=written.nfe,
        dial=offer.dial.name,
        value=written.dial,
        forced=written.forced,
    )
    layout = site.task.lay_out(wanted.prompt, text)
    completion = decode_order.with_layout(completion, len(prefill), **layout._asdict())
    right = None
    if wanted.example is not None:
        right = site.task.reward(wanted.example, text).correct
    return {
        "text": text,
        "facts": decode_order.describe(completion),
        "calls": completion.calls,
        "learned": None if math.isnan(written.learned) else written.learned,
        "filled": [i for i, sampled in enumerate(completion.sampled) if not sampled],
        "pieces": completion.pieces,
        "columns": completion.columns,
        "box": completion.box,
        "given": list(completion.given),
        "wrong": list(completion.wrong),
        "verdict": completion.verdict,
        "right": right,
    }
