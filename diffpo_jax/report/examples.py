"""Chooses completions from a run's samples, for a reader to step through call by call."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffpo_jax.analysis.groups import Group
from diffpo_jax.analysis.runs import Run
from diffpo_jax.config import DIALS
from diffpo_jax.report import decode_order
from diffpo_jax.report.decode_order import Completion

_WRONG = 2  # wrong answers that are shown
_FILLED = "\N{MIDDLE DOT}"  # stands for a token after the end of the text


class Example(NamedTuple):
    """A completion with the reason it is shown, and whether it is right."""

    why: str
    right: bool
    completion: Completion


def choose_examples(run: Run) -> list[Example]:
    """Returns the samples with the fewest, the median and the most calls, and the first wrong ones.

    The list is empty if the samples do not say which text each token is.
    """
    rows = _readable(run)
    if not rows:
        return []
    ordered = sorted(rows, key=lambda row: row["nfe"])  # stable: the first of equal ones
    chosen = [
        ("Fewest calls", ordered[0]),
        ("Median calls", ordered[(len(ordered) - 1) // 2]),
        ("Most calls", next(row for row in ordered if row["nfe"] == ordered[-1]["nfe"])),
    ]
    chosen += [("Further answer", row) for row in rows if not row["correct"]][:_WRONG]
    unique: dict[int, tuple[str, dict[str, Any]]] = {}
    for why, row in chosen:
        unique.setdefault(id(row), (why, row))
    return [_example(why, row, run) for why, row in unique.values()]


def choose_common_example(groups: Sequence[Group]) -> list[Example]:
    """Returns one prompt as the first run of each group answers it.

    It is the prompt with the median number of calls for the first group.
    """
    answers = [
        (label, runs[0], {row["prompt"]: row for row in reversed(_readable(runs[0]))})
        for label, runs, _ in groups
        if runs[0].samples_name == "test" and _readable(runs[0])
    ]
    if not answers:
        return []
    shared = set.intersection(*(set(rows) for _, _, rows in answers))
    first = [row for prompt, row in answers[0][2].items() if prompt in shared]
    if not first:
        return []
    ordered = sorted(first, key=lambda row: row["nfe"])
    prompt = ordered[(len(ordered) - 1) // 2]["prompt"]
    return [_example(f"{label} ({run.name})", rows[prompt], run) for label, run, rows in answers]


def _example(why: str, row: Mapping[str, Any], run: Run) -> Example:
    calls, pieces = row["commit_call"], _pieces(row, run)
    written = len(pieces)
    completion = Completion(
        prompt=row["prompt"],
        pieces=[*pieces, *[_FILLED] * (len(calls) - written)],
        calls=calls,
        sampled=[i < written for i in range(len(calls))],
        probabilities=row.get("probability", []),  # older versions did not keep these
        entropies=row.get("entropy", []),
        text=row["completion"],
        nfe=row["nfe"],
        dial=DIALS[run.config["sampler.rule"]],
        value=row["gamma"],
        forced=row.get("forced", False),
    )
    if "layout" in row:
        start = len(run.config["task.prompt.prefill"])
        completion = decode_order.with_layout(completion, start, **row["layout"])
    return Example(why, bool(row["correct"]), completion)


def _readable(run: Run) -> list[dict[str, Any]]:
    """Returns the samples for which the text of every token is known."""
    return [row for row in run.samples if _pieces(row, run)]


def _pieces(row: Mapping[str, Any], run: Run) -> list[str]:
    """Returns the texts of the tokens up to the end of text, or [] if they are not known.

    They are known if the tokenizer's tokens are characters.
    """
    prefill = run.config["task.prompt.prefill"]
    written = row["completion"].removeprefix(prefill)
    if run.config["tokenizer.name"] != "char" or len(written) > len(row["commit_call"]):
        return []
    return list(written)
