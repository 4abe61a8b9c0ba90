"""Completions of a run's samples, chosen and made ready to be stepped through."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffpo_jax.analysis.groups import Group
from diffpo_jax.analysis.runs import Run
from diffpo_jax.config import DIALS
from diffpo_jax.report.decode_order import Completion

_WRONG = 2  # wrong answers that are shown
_FILLED = "\N{MIDDLE DOT}"  # stands for a token after the end of the text


class Example(NamedTuple):
    """A completion with the reason it is shown, and whether it is right."""

    why: str
    right: bool
    completion: Completion


def of_one(run: Run) -> list[Example]:
    """Those with the fewest, the median and the most calls, and the first wrong ones.

    Nothing where the samples do not say which text each token is.
    """
    rows = _readable(run)
    if not rows:
        return []
    ordered = sorted(rows, key=lambda row: row["nfe"])  # stable: of equals the first
    chosen = [
        ("fewest calls", ordered[0]),
        ("median calls", ordered[(len(ordered) - 1) // 2]),
        ("most calls", next(row for row in ordered if row["nfe"] == ordered[-1]["nfe"])),
    ]
    chosen += [("wrong answer", row) for row in rows if not row["correct"]][:_WRONG]
    seen, kept = set(), []
    for why, row in chosen:
        if id(row) not in seen:
            seen.add(id(row))
            kept.append(Example(why, bool(row["correct"]), completion(row, run)))
    return kept


def of_several(groups: Sequence[Group]) -> list[Example]:
    """One prompt as the first run of each group answers it: one of median calls for the first."""
    firsts = [(g.label, run) for g in groups for run in g.runs[:1] if run.samples_of == "test"]
    tables = [
        (label, run, {row["prompt"]: row for row in reversed(_readable(run))})
        for label, run in firsts
    ]
    tables = [entry for entry in tables if entry[2]]
    if not tables:
        return []
    shared = set.intersection(*(set(rows) for _, _, rows in tables))
    first = tables[0][2]
    common = sorted(
        (row for row in first.values() if row["prompt"] in shared), key=lambda row: row["nfe"]
    )
    if not common:
        return []
    prompt = common[(len(common) - 1) // 2]["prompt"]
    return [
        Example(
            f"{label} ({run.name})", bool(rows[prompt]["correct"]), completion(rows[prompt], run)
        )
        for label, run, rows in tables
    ]


def completion(row: Mapping[str, Any], run: Run) -> Completion:
    """A row of samples/ for `decode_order`; probabilities and entropies are not in it."""
    calls, pieces = row["commit_call"], _pieces(row, run)
    written = len(pieces)
    return Completion(
        prompt=row["prompt"],
        pieces=[*pieces, *[_FILLED] * (len(calls) - written)],
        calls=calls,
        sampled=[i < written for i in range(len(calls))],
        probabilities=[],
        entropies=[],
        text=row["completion"],
        nfe=row["nfe"],
        dial=DIALS[run.config["sampler.rule"]],
        value=row["gamma"],
        forced=False,
    )


def grid_columns(run: Run) -> int:
    """Tokens to a line where the answer is a grid, 0 where it is text."""
    return int(run.config["task.sudoku.size"]) if run.config["task.name"] == "sudoku" else 0


def _readable(run: Run) -> list[dict[str, Any]]:
    """The samples of which the text of every token is known."""
    return [row for row in run.samples if _pieces(row, run)]


def _pieces(row: Mapping[str, Any], run: Run) -> list[str]:
    """The texts of the tokens up to the end of text, [] where the row does not say.

    A row of a tokenizer whose tokens are characters says it by its text.
    """
    prefill = run.config["task.prompt.prefill"]
    written = row["completion"].removeprefix(prefill)
    if run.config["tokenizer.name"] != "char" or len(written) > len(row["commit_call"]):
        return []
    return list(written)
