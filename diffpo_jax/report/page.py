"""HTML pages from the templates beside this module: a report, and completions to step through.

A page is one file that loads nothing. Templates escape all values (autoescape) but figures, which
matplotlib writes.
"""

import re
from collections.abc import Sequence
from typing import Any

import jinja2

from diffpo_jax.report import decode_order, picture
from diffpo_jax.report.compose import Report
from diffpo_jax.report.decode_order import Completion

_NUMBER = re.compile(r"[-+]?[\d.,]+( ?%| nats| s| min| h)?\*?( \([^()]*\))?")


def report_page(report: Report) -> str:
    """Returns a report as a page."""
    sections = [section for section in report.sections if not section.is_empty]
    return _render("report.html", report=report, sections=sections)


def completions_page(completions: Sequence[Completion]) -> str:
    """Returns a page on which each completion can be stepped through call by call."""
    records = [completion._asdict() for completion in completions]
    return _render("completions.html", completions=completions, records=records)


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _lateness(completion: Completion, call: int) -> float:
    """From 0 for the first call to 1 for the last."""
    last = completion.last_call
    return round((min(call, last) - 1) / max(last - 1, 1), 3)


def _render(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("diffpo_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # keep the order of fields
    environment.tests["number_text"] = _NUMBER.fullmatch
    # A number and its percent sign stay on one line.
    environment.filters["tie"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    environment.globals |= {
        "drawings": picture.drawings,
        "cell_text": _cell_text,
        "describe": decode_order.describe,
        "help": decode_order.HELP,
        "lateness": _lateness,
    }
    page = environment.get_template(template).render(values)
    # Halves of surrogate pairs, as in a file's name that is no UTF-8, cannot be written.
    return page.encode("utf-8", "replace").decode("utf-8")
