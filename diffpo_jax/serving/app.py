"""The server's addresses: OpenAI's API under /v1, and the page with its own under /api."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from diffpo_jax.serving import answers, gate, page, requests, site
from diffpo_jax.serving.answers import Choice
from diffpo_jax.serving.refusal import Refusal
from diffpo_jax.serving.requests import Wanted
from diffpo_jax.serving.site import Running, Site

_LINES = "application/x-ndjson"
MOST_BYTES = 4 * 2**20  # of a request's body
# The page is one file: whatever a completion holds, a browser loads and runs nothing else.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_app(served: Site) -> Starlette:
    """The application of a site."""

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page.render(served), headers={"Content-Security-Policy": _POLICY})

    async def show_health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "models": served.engine.state()})

    async def list_models(request: Request) -> Response:
        return JSONResponse(answers.models(list(served.offers), served.created))

    async def show_model(request: Request) -> Response:
        name = requests.model_of(request.path_params, served.offers)
        return JSONResponse(answers.model(name, served.created))

    async def complete(request: Request) -> Response:
        body = await _body(request)
        wanted = requests.read_completion(body, served.offers)
        return await _answer(request, served, wanted, answers.completion)

    async def chat(request: Request) -> Response:
        body = await _body(request)
        wanted = requests.read_chat(body, served.offers, served.texts.format_turns)
        return await _answer(request, served, wanted, answers.chat)

    async def show_example(request: Request) -> Response:
        number = request.path_params["number"]
        if not 1 <= number <= len(served.examples):
            raise Refusal(f"The test set has the prompts 1 to {len(served.examples)}.", status=404)
        return JSONResponse({"prompt": served.examples[number - 1].prompt})

    async def write(request: Request) -> Response:
        body = await _body(request)
        request.scope[gate.NOTE] = "page"
        try:
            wanted = page.read(body, served)
            encoded = await asyncio.to_thread(served.texts.encode, [wanted.prompt], served.prompt)
            rows = site.asks(
                *encoded,
                most=served.offers[wanted.model].length,
                dial=wanted.dial,
                scale=wanted.scale,
                temperature=served.offers[wanted.model].temperature,
                seed=None,
            )
            running = Running(served, wanted.model, rows)
        except Refusal as error:
            # The page says it.  With another status the browser would log it as a fault of its own.
            return JSONResponse(error.body(), media_type=_LINES)

        async def lines() -> AsyncIterator[str]:
            # A client that goes away ends the response, and with it this block.
            with running:
                try:
                    async for event in page.events(served, wanted, running):
                        yield json.dumps(event) + "\n"
                except Refusal as error:
                    yield json.dumps(error.body()) + "\n"

        return StreamingResponse(lines(), media_type=_LINES)

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/health", show_health),
            Route("/api/examples/{number:int}", show_example),
            Route("/api/write", write, methods=["POST"]),
            Route("/v1/models", list_models),
            Route("/v1/models/{model}", show_model),
            Route("/v1/completions", complete, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        exception_handlers={
            Refusal: _refuse,
            HTTPException: _refuse_path,
            Exception: _apologise,
        },
    )


async def _answer(
    request: Request, served: Site, wanted: Wanted, lay_out: Callable[..., dict[str, Any]]
) -> Response:
    """Completes what is wanted, unless the client goes away."""
    began = time.monotonic()
    tokens, mask = await asyncio.to_thread(served.texts.encode, wanted.prompts)
    rows = site.asks(
        tokens,
        mask,
        n=wanted.n,
        most=wanted.most,
        dial=wanted.dial,
        scale=wanted.scale,
        temperature=wanted.temperature,
        seed=wanted.seed,
    )
    with Running(served, wanted.model, rows) as running:
        done = await _unless_gone(request, running.last())
    if done is None:
        request.scope[gate.NOTE] = f"{wanted.model}, {len(rows)} completions, the client went away"
        return Response(status_code=499)  # nobody gets it
    choices = [
        Choice(served.texts.answer(row, wanted.most, wanted.stop), row.nfe, _short(row.dial))
        for row in done
    ]
    dial = served.offers[wanted.model].dial.name
    body = lay_out(wanted.model, dial, choices, int(mask.sum()))
    usage, seconds = body["usage"], time.monotonic() - began
    request.scope[gate.NOTE] = (
        f"{wanted.model}, {len(rows)} completions, {usage['completion_tokens']} tokens in "
        f"{usage['calls']} calls, {usage['completion_tokens'] / max(seconds, 1e-9):.0f} tokens/s"
    )
    return JSONResponse(body)


async def _unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """The result of the work; None if the client goes away before, and the work is cancelled."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Browsers send a page's JSON to another address only if that allows it, which this server does
    not: the type of the content is what tells JSON from a form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal("The header Content-Type must be application/json.", status=415)
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise Refusal(f"The body has more than {MOST_BYTES // 2**20} MiB.", status=413)
    return requests.parse(bytes(content))


def _short(value: float) -> float:
    """Seven digits, as many as float32 has."""
    return float(f"{value:.7g}") if math.isfinite(value) else value


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    request.scope[gate.NOTE] = str(error)
    retry = {"Retry-After": "1"} if error.status in (429, 503) else None
    return JSONResponse(error.body(), error.status, headers=retry)


async def _refuse_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {404: "There is no such address.", 405: "This address takes another method."}
    refusal = Refusal(text.get(error.status_code, error.detail), status=error.status_code)
    return JSONResponse(refusal.body(), error.status_code, headers=error.headers)


async def _apologise(request: Request, error: Exception) -> Response:
    refusal = Refusal("The server has a fault; its log says which.", status=500)
    return JSONResponse(refusal.body(), 500)
