"""A report as one HTML file that loads nothing: figures are within it.

Whatever comes from data is escaped; a figure that is there as a file is shown as an image, in
which a browser runs nothing.
"""

import base64
import html
import re
from typing import Any

from diffpo_jax.report import decode_order, picture
from diffpo_jax.report.compose import Report, Section
from diffpo_jax.report.examples import Example
from diffpo_jax.report.tables import Table

_KINDS = {"svg": "image/svg+xml", "png": "image/png"}
_SHORT, _LONG = 24, 60  # characters of a cell that is never, and of one that is always broken
_NUMBER = re.compile(r"[-+]?[\d.,]+( ?%| nats| s| min| h)?\*?( \([^()]*\))?")


def page(report: Report) -> str:
    """The whole page."""
    shown = [section for section in report.sections if not section.empty]
    links = "".join(
        f'<li><a href="#{_anchor(i)}">{_text(section.title)}</a></li>'
        for i, section in enumerate(shown)
    )
    parts = "\n".join(_section(section, _anchor(i)) for i, section in enumerate(shown))
    # Not str.format: style and script are full of braces.  One pass: data may look like a name.
    values = {
        "title": _text(report.title),
        "says": _text(report.says),
        "links": links,
        "parts": parts,
        "style": _STYLE + decode_order.STYLE,
        "script": decode_order.SCRIPT if any(s.examples for s in shown) else "",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _PAGE)


def _section(section: Section, anchor: str) -> str:
    parts = [f"<p>{_text(line)}</p>" for line in section.paragraphs]
    tables = [_table(table) for table in section.tables]
    figures = [_picture(one) for one in section.pictures]
    figures += [_image(name, content) for name, content in section.images]
    if figures:
        tables.insert(0, f'<div class="figures">{"".join(figures)}</div>')
    parts += tables
    if section.examples:
        shown = "".join(_example(example, section.columns) for example in section.examples)
        kind = "examples narrow" if section.columns else "examples"
        parts.append(f'<div class="{kind}">{shown}</div>')
    inner = "\n".join(parts)
    return f'<section id="{anchor}"><h2>{_text(section.title)}</h2>\n{inner}\n</section>'


def _picture(one: picture.Picture) -> str:
    return (
        f"<figure><h3>{_text(one.title)}</h3>{picture.inline(one)}"
        f"<figcaption>{_text(one.says)}</figcaption></figure>"
    )


def _image(name: str, content: bytes) -> str:
    kind = _KINDS[name.rpartition(".")[2]]
    data = base64.b64encode(content).decode("ascii")
    title = name.rpartition(".")[0].replace("_", " ")
    return (
        f'<figure class="wide"><img alt="{_text(title)}" src="data:{kind};base64,{data}">'
        f"<figcaption>{_text(title)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    title = f"<h3>{_text(table.title)}</h3>" if table.title and not table.folded else ""
    head = ""
    if any(table.columns):
        cells = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.columns)
        head = f"<thead><tr>{cells}</tr></thead>"
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    label = _text(table.title or ", ".join(filter(None, table.columns)) or "numbers")
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    body = (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">'
        f"<table>{head}<tbody>{rows}</tbody></table></div>{note}"
    )
    if table.folded:
        return f"<details><summary>{_text(table.title)}</summary>{body}</details>"
    return title + body


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    number = _NUMBER.fullmatch(text) is not None
    kind = "short" if len(text) <= _SHORT else "middle" if len(text) <= _LONG else "long"
    return f'<td class="{"number" if number else kind}">{_text(text)}</td>'


def _example(example: Example, columns: int) -> str:
    verdict = "right" if example.right else "wrong"
    return (
        f'<article class="example"><h3>{_text(example.why)}, {verdict}</h3>'
        f'<p class="prompt">{_text(example.completion.prompt)}</p>'
        f"{decode_order.steps(example.completion, columns)}</article>"
    )


def _anchor(i: int) -> str:
    return f"part-{i + 1}"


def _text(value: Any) -> str:
    return html.escape(str(value))


_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c1c1c; --grey: #555; --grid: #e5e5e5;
  --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181c; --ink: #e4e4e4; --grey: #a9a9a9; --grid: #383b40; --link: #7db8f0; }
}
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--grid); overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
p { max-width: 46rem; margin: .5rem 0; overflow-wrap: anywhere; }
a { color: var(--link); }
.says, figcaption, .note { color: var(--grey); }
figcaption, .note, .prompt { font-size: .875rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; padding: 0;
  margin: 1rem 0 0; font-size: .9rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: 1rem 2.5rem; align-items: start; margin-top: 1rem; }
figure { margin: 0; min-width: 0; }
figure h3 { margin-top: 0; }
figure svg, figure img { width: 100%; height: auto; display: block; }
figure.wide { grid-column: 1 / -1; }
figure img { background: #fff; max-width: 36rem; }
svg.figure { fill: var(--ink); }
svg.figure * { stroke-linejoin: round; stroke-linecap: butt; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0;
  border-bottom: 1px solid var(--grid); }
th { font-weight: 600; min-width: 4.5rem; }
td { min-width: 4.5rem; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
td.short { white-space: nowrap; }
td.middle { min-width: 13rem; }
td.long { min-width: 20rem; max-width: 46rem; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .75rem 0; }
summary { cursor: pointer; }
.examples { display: grid; gap: 1.5rem 2.5rem; margin-top: 1rem; align-items: start; }
.examples.narrow { grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); }
.example { min-width: 0; }
.example h3 { margin-top: 0; }
.prompt { font-family: ui-monospace, monospace; white-space: pre-wrap; color: var(--grey);
  max-height: 12rem; overflow-y: auto; }
@media print { .scroll { overflow: visible; } }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}}</title>
<style>{{style}}</style></head><body>
<header><h1>{{title}}</h1>
<p class="says">{{says}}</p>
<nav aria-label="Parts of this page"><ul>{{links}}</ul></nav></header>
<main>
{{parts}}
</main>
<script>{{script}}</script>
</body></html>
"""
