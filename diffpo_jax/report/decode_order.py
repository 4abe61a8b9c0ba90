"""The order in which a completion was written: its record, and its form for a terminal."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from diffpo_jax.system import terminal

# What a page says about completions to step through.
HELP = (
    "Each token was committed by a call of the denoiser; the small number is the call. The slider "
    "and Play go from call to call: what the call wrote stands out, and what earlier calls wrote "
    "is the stronger, the later it came. Grey is what the prompt gives, a red frame what cannot "
    "be right. Arrow keys move between tokens, and the line below says how probable each was."
)


class Completion(NamedTuple):
    """One completion, token by token."""

    prompt: str
    pieces: list[str]  # the text of each token; special tokens by name
    calls: list[int]  # the denoiser call that committed it, from 1
    sampled: list[bool]  # False if it was filled in after the end of the text
    probabilities: list[float]  # of each token when it was drawn; empty if not kept
    entropies: list[float]  # nats, of its distribution at that call; empty if not kept
    text: str  # up to the end of the text, prefill included
    nfe: int  # denoiser calls
    dial: str  # name of the commit rule's number
    value: float
    forced: bool  # the cap on calls was reached
    # How the task shows it (tasks.task.Layout); positions are those of tokens.
    columns: int = 0
    box: int = 0
    given: Sequence[int] = ()
    wrong: Sequence[int] = ()
    verdict: str = ""

    @property
    def last_call(self) -> int:
        """The call that committed the last token; with guidance `nfe` is twice as large."""
        return max((c for c, sampled in zip(self.calls, self.sampled) if sampled), default=1)


def with_layout(
    completion: Completion,
    start: int,
    *,
    columns: int,
    box: int,
    given: Sequence[int],
    wrong: Sequence[int],
    verdict: str,
) -> Completion:
    """Returns a completion with the layout of its task, whose positions are those of characters.

    The tokens that hold these characters are marked, if the tokens spell the text after `start`,
    the length of its prefill. A board needs a token for each character.
    """
    rest, spelled, owners = completion.text[start:], "", []  # owners: the token of each character
    for i, piece in enumerate(completion.pieces):
        if len(spelled) >= len(rest):
            break
        spelled += piece
        owners += [i] * len(piece)
    completion = completion._replace(verdict=verdict)
    if spelled != rest:
        return completion
    tokens = len(completion.pieces)
    is_board = columns > 0 and start == 0 and owners == [*range(len(owners))]
    if is_board:
        owners = [*range(tokens)]  # cells that a text cut short lacks are cells too

    def marked(characters: Sequence[int]) -> list[int]:
        return sorted({owners[c - start] for c in characters if start <= c < start + len(owners)})

    return completion._replace(
        columns=columns if is_board else 0,
        box=box if is_board else 0,
        given=marked(given),
        wrong=marked(wrong),
    )


def as_text(completion: Completion, *, colour: bool) -> str:
    """Returns the completion with the call of each token, as a colour or a number after it.

    Early calls are blue, late ones red. Tokens filled in after the end of the text are left out.
    Control characters of the texts are shown as escapes, so that they cannot act on the terminal.
    """
    parts, shown, last = [], set(), completion.last_call
    for piece, call, sampled in zip(completion.pieces, completion.calls, completion.sampled):
        if sampled:
            shown.add(call)
            piece = terminal.printable(piece)
            parts.append(_paint(piece, call, last) if colour else f"{piece}[{call}]")
    lines = [
        f"prompt      {terminal.printable(completion.prompt)}",
        f"completion  {terminal.printable(completion.text)}",
        f"            {describe(completion)}",
        f"by call     {''.join(parts)}",
    ]
    if colour:
        legend = [_paint(f" {call} ", call, last) for call in sorted(shown)]
        lines.append(f"            {''.join(legend)}")
    return "\n".join(lines) + "\n\n"


def describe(completion: Completion) -> str:
    """Gives the number of tokens and calls, and the commit rule's number."""
    tokens = sum(completion.sampled)
    unit = " nats" if completion.dial == "gamma" else ""
    cap = ", cut short by the cap on calls" if completion.forced else ""
    rate, calls = tokens / max(completion.nfe, 1), "call" if completion.nfe == 1 else "calls"
    return (
        f"{tokens} tokens in {completion.nfe} {calls} ({rate:.2f} per call), "
        f"{completion.dial} {completion.value:.3g}{unit}{cap}"
    )


def token_colour(call: int, calls: int) -> tuple[int, int, int]:
    """Returns red, green and blue: from blue (first call) through white to red (last call)."""
    position = (min(call, calls) - 1) / max(calls - 1, 1)
    fade = 1 - abs(2 * position - 1)  # 0 at both ends
    strong, weak = 255, round(130 + 125 * math.sqrt(fade))
    return (weak, weak, strong) if position < 0.5 else (strong, weak, weak)


def _paint(text: str, call: int, calls: int) -> str:
    """Returns text for a terminal, black on the call's colour."""
    r, g, b = token_colour(call, calls)
    return f"\x1b[48;2;{r};{g};{b}m\x1b[30m{text}\x1b[0m"
