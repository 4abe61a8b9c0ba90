"""In which order a completion was written, for the terminal and as a page."""

import html
import json
import math
from collections.abc import Sequence
from typing import NamedTuple


class Completion(NamedTuple):
    """One completion, token by token."""

    prompt: str
    pieces: list[str]  # the text of each token; special tokens by name
    calls: list[int]  # the denoiser call that committed it, from 1
    sampled: list[bool]  # False: filled in after the end
    probabilities: list[float]  # of each token when it was drawn; empty where not kept
    entropies: list[float]  # nats, of its distribution then; empty where not kept
    text: str  # up to the end of text, with what was given of it
    nfe: int  # denoiser calls
    dial: str  # what the rule's number is called
    value: float
    forced: bool  # the cap on calls was met


def as_text(completion: Completion, *, colour: bool) -> str:
    """The completion with the call of each token: by colour, or as a number behind it.

    Early calls are blue, late ones red.  Tokens filled in after the end are left out.
    """
    parts, shown = [], []
    for piece, call, sampled in zip(completion.pieces, completion.calls, completion.sampled):
        if not sampled:
            continue
        shown.append(call)
        if colour:
            parts.append(_painted(piece, call, completion.nfe))
        else:
            parts.append(f"{piece}[{call}]")
    lines = [
        f"prompt      {completion.prompt}",
        f"completion  {completion.text}",
        f"            {_numbers(completion)}",
        f"by call     {''.join(parts)}",
    ]
    if colour:
        legend = [_painted(f" {call} ", call, completion.nfe) for call in sorted(set(shown))]
        lines.append(f"            {''.join(legend)}")
    return "\n".join(lines) + "\n\n"


def as_html(completions: Sequence[Completion]) -> str:
    """A page that needs no network: each completion can be stepped through call by call."""
    sections = [
        f"<section><h2>{html.escape(c.prompt)}</h2>{steps(c)}</section>" for c in completions
    ]
    # Within a script nothing is unescaped, so "<" must not occur in it.
    data = json.dumps([c._asdict() for c in completions]).replace("<", "\\u003c")
    page = _PAGE.replace("{style}", STYLE).replace("{script}", SCRIPT)
    return page.replace("{data}", data).replace("{sections}", "\n".join(sections))


def steps(completion: Completion, columns: int = 0) -> str:
    """One completion with its slider, as part of a page that has `STYLE` and `SCRIPT`.

    Args:
      columns: tokens to a line, as of a grid; 0: as running text.
    """
    spans = []
    for i, piece in enumerate(completion.pieces):
        r, g, b = _colour(completion.calls[i], completion.nfe)
        spans.append(
            f'<span data-call="{completion.calls[i]}" title="{html.escape(_told(completion, i))}" '
            f'style="--c: rgb({r},{g},{b})">{html.escape(piece)}</span>'
        )
    last = max(completion.calls)
    grid = f' grid" style="--columns: {columns}' if columns else ""
    return (
        f'<div class="order"><p>{html.escape(_numbers(completion))}</p>'
        f'<label>after call <input type="range" min="0" max="{last}" value="{last}">'
        f"<output>{last}</output></label>"
        f'<p class="tokens{grid}">{"".join(spans)}</p></div>'
    )


def _told(completion: Completion, i: int) -> str:
    """What pointing at a token says."""
    if not completion.sampled[i]:
        return "filled in after the end"
    told = f"call {completion.calls[i]}"
    if completion.probabilities:
        told += f", p = {completion.probabilities[i]:.3f}"
    if completion.entropies:
        told += f", H = {completion.entropies[i]:.3f} nats"
    return told


def _numbers(completion: Completion) -> str:
    tokens = sum(completion.sampled)
    unit = " nats" if completion.dial == "gamma" else ""
    cap = ", cut short by the cap on calls" if completion.forced else ""
    a_call, calls = tokens / max(completion.nfe, 1), "call" if completion.nfe == 1 else "calls"
    return (
        f"{tokens} tokens in {completion.nfe} {calls} ({a_call:.2f} a call), "
        f"{completion.dial} {completion.value:.3g}{unit}{cap}"
    )


def _colour(call: int, calls: int) -> tuple[int, int, int]:
    """From blue (first call) through white to red (last)."""
    at = (min(call, calls) - 1) / max(calls - 1, 1)
    fade = 1 - abs(2 * at - 1)  # 0 at both ends
    strong, weak = 255, round(130 + 125 * math.sqrt(fade))
    return (weak, weak, strong) if at < 0.5 else (strong, weak, weak)


def _painted(text: str, call: int, calls: int) -> str:
    """Black on the call's colour, for a terminal."""
    r, g, b = _colour(call, calls)
    return f"\x1b[48;2;{r};{g};{b}m\x1b[30m{text}\x1b[0m"


STYLE = """
.tokens { font-family: ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.tokens span { background: var(--c); color: #222; border-radius: 2px; }
.tokens span.masked { background: #ddd; color: transparent; }
.tokens.grid { display: grid; grid-template-columns: repeat(var(--columns), 1.9em); gap: 2px; }
.tokens.grid span { text-align: center; line-height: 1.9; }
.order output { margin-left: .5rem; }
.order input { vertical-align: middle; }
"""

SCRIPT = """
for (const order of document.querySelectorAll(".order")) {
  const slider = order.querySelector("input");
  const show = () => {
    order.querySelector("output").textContent = slider.value;
    for (const token of order.querySelectorAll("[data-call]"))
      token.classList.toggle("masked", Number(token.dataset.call) > Number(slider.value));
  };
  slider.addEventListener("input", show);
  show();  // a browser may have kept where the slider was
}
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Decode order</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; color: #222; }
h2 { font: 600 1rem ui-monospace, monospace; white-space: pre-wrap; }
{style}</style></head><body>
<h1>Decode order</h1>
<p>Blue tokens were committed by early calls of the denoiser, red ones by late calls; point at one
for its call, its probability and the entropy of its distribution.</p>
{sections}
<script type="application/json" id="completions">{data}</script>
<script>{script}</script>
</body></html>
"""
