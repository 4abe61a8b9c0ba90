"""What the server serves: models, their tokenizer, and the task whose prompts the page offers."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffpo_jax.config import PromptConfig
from diffpo_jax.serving.batch import Ask, Row, Written
from diffpo_jax.serving.engine import Closed, Engine, Full
from diffpo_jax.serving.refusal import Refusal
from diffpo_jax.serving.requests import MOST_SEED, Offer
from diffpo_jax.serving.texts import Texts
from diffpo_jax.tasks.task import Example


class Slider(NamedTuple):
    """How the page shows a model's dial."""

    values: Sequence[float]
    start: float  # where it stands at first; for a learned γ the fixed one
    what: str  # what a larger value does


class Site(NamedTuple):
    """Everything that handlers need."""

    engine: Engine
    texts: Texts
    offers: Mapping[str, Offer]  # by the name of the model
    sliders: Mapping[str, Slider]
    prompt: PromptConfig  # of prompts on the page
    fault_of: Callable[[str], str]  # what keeps a text from being one; "" if nothing does
    task: Any  # type of the task, or the task if its examples could be read
    examples: Sequence[Example]  # of the test set; none if they could not be read
    title: str
    created: int  # seconds since 1970


class Running:
    """The rows of one request.  Used in the event loop; leaving the block cancels them."""

    def __init__(self, site: Site, model: str, asks: Sequence[Ask]):
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue = asyncio.Queue()
        self._rows = [Row(ask, self._tell(i)) for i, ask in enumerate(asks)]
        try:
            site.engine.submit(model, self._rows)
        except Full as error:
            raise Refusal(
                "Too many requests wait already: try again later.", status=429, code="busy"
            ) from error
        except Closed as error:
            raise _failed(error) from error

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *exception: object) -> None:
        for row in self._rows:
            row.cancelled = True

    async def calls(self) -> AsyncIterator[tuple[int, Written]]:
        """Each row's number and state after each of its calls, until all are done.

        Raises:
          Refusal: the engine failed, or the model gives NaN.
        """
        left = len(self._rows)
        while left:
            row, event = await self._events.get()
            if isinstance(event, Exception):
                raise _failed(event) from event
            if not _is_sound(event):
                raise Refusal("The model gives NaN in place of probabilities.", status=500)
            left -= event.done
            yield row, event

    async def last(self) -> list[Written]:
        """Each row after its last call; raises like `calls`."""
        found: dict[int, Written] = {}
        async for row, written in self.calls():
            found[row] = written
        return [found[i] for i in range(len(self._rows))]

    def _tell(self, number: int) -> Any:
        def tell(event: Written | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._events.put_nowait, (number, event))

        return tell


def asks(
    tokens: np.ndarray,
    mask: np.ndarray,
    *,
    n: int = 1,
    most: int,
    dial: float | None,
    scale: float = 1.0,
    temperature: float,
    seed: int | None,
) -> list[Ask]:
    """Rows for n completions of each prompt.

    Args:
      dial: None for the learned γ.
      seed: None for one that nobody knows.
    """
    own = secrets.randbelow(MOST_SEED + 1) if seed is None else seed
    number = float("nan") if dial is None else dial
    return [
        Ask(tokens[i // n], mask[i // n], most, number, scale, temperature, own, i)
        for i in range(n * len(tokens))
    ]


def _is_sound(written: Written) -> bool:
    kept = written.logprob[written.commit_call > 0]
    return not (np.isnan(kept).any() or np.isnan(written.dial))


def _failed(error: Exception) -> Refusal:
    if isinstance(error, Closed):
        return Refusal("The server is shutting down.", status=503, code="shutting_down")
    return Refusal("The model failed; the server's log says why.", status=500)
