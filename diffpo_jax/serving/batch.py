"""The batch of one model: programs on `diffusion.slots`, and which row is in which slot."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from diffpo_jax.arrays.types import Params, Prompts
from diffpo_jax.diffusion import slots as slots_lib
from diffpo_jax.diffusion.settings import SamplerSettings
from diffpo_jax.distributed import sharding
from diffpo_jax.models.policy import Policy

_STEP = 8  # from one batch size to the next


class Model(NamedTuple):
    """What writes completions."""

    policy: Policy
    params: Params
    settings: SamplerSettings  # the temperature is that of each request
    prompt_length: int
    learns: bool  # whether the threshold head gives γ where a request gives none


class Ask(NamedTuple):
    """What one row is to write."""

    tokens: np.ndarray  # [P] int32, the prompt, padded on the left
    mask: np.ndarray  # [P] bool
    most: int  # tokens wanted, at most L: the row is done when so many are written
    dial: float  # γ in nats, or another rule's number; NaN for the learned γ
    scale: float = 1.0  # factor on the learned γ
    temperature: float = 0.0
    seed: int = 0
    number: int = 0  # of the row among those with its seed


class Written(NamedTuple):
    """A row after a call, [L] each; fields as in `Rollout`."""

    tokens: np.ndarray
    commit_call: np.ndarray  # 0 where nothing is written yet
    logprob: np.ndarray
    entropy: np.ndarray
    call: int  # the last one made, from 1
    nfe: int  # denoiser calls: with guidance two for each
    dial: float
    learned: float  # γ of the head for this prompt; NaN without one
    forced: bool  # the cap on calls was reached
    done: bool


@dataclasses.dataclass(eq=False)
class Row:
    """A request's row, from the queue to its end."""

    ask: Ask
    tell: Callable[["Written | Exception"], None]  # called after each of its calls
    cancelled: bool = False


class Batch:
    """Up to `slots` rows of a model.  Used by one thread.

    A call is compiled for a few batch sizes, of which the smallest that holds all rows is taken, so
    that a lone request does not pay for empty slots.  The settings of requests are arguments.
    """

    def __init__(self, model: Model, slots: int, mesh: Mesh):
        # Devices that split a batch need as many rows each.
        devices = mesh.shape["data"] * mesh.shape["fsdp"]
        self.sizes = batch_sizes(-(-slots // devices) * devices, devices)
        self.slots = self.sizes[-1]
        self._model = model
        self._rows: list[Row | None] = [None] * self.slots
        everywhere = sharding.replicated(mesh)
        policy, settings = model.policy, model.settings
        self._empty = jax.jit(
            functools.partial(
                slots_lib.empty,
                policy,
                settings=settings,
                slots=self.slots,
                prompt_length=model.prompt_length,
            ),
            out_shardings=everywhere,
        )
        self._put = jax.jit(
            functools.partial(slots_lib.put, policy, settings=settings),
            donate_argnums=1,
            out_shardings=everywhere,
        )
        self._call = jax.jit(
            functools.partial(slots_lib.call, policy, settings=settings, learns=model.learns),
            donate_argnums=1,
            out_shardings=everywhere,
        )
        self._state: slots_lib.Slots | None = None  # made when it is needed

    @property
    def free(self) -> int:
        """Slots without a row."""
        return self._rows.count(None)

    @property
    def running(self) -> int:
        return self.slots - self.free

    def compile(self) -> None:
        """Compiles the programs: no request then waits for that."""
        self._begin([])
        for size in self.sizes:
            self._make_call([], size)

    def put(self, rows: Sequence[Row]) -> None:
        """Begins rows, at most as many as there are free slots."""
        places = [i for i, row in enumerate(self._rows) if row is None][: len(rows)]
        for place, row in zip(places, rows, strict=True):
            self._rows[place] = row
        self._begin([(place, row.ask) for place, row in zip(places, rows)])

    def call(self) -> None:
        """Makes one call of every row, tells what each has written, and frees those that are done.

        Rows that are cancelled are freed before it.
        """
        self._rows = [row if row and not row.cancelled else None for row in self._rows]
        places = [i for i, row in enumerate(self._rows) if row is not None]
        if not places:
            return
        size = next(size for size in self.sizes if size >= len(places))
        seen = self._make_call(places, size)
        for i, place in enumerate(places):
            row = self._rows[place]
            done = bool((seen.commit_call[i, : row.ask.most] > 0).all())
            if done:
                self._rows[place] = None
            row.tell(
                Written(
                    *(x[i] for x in seen[:4]),
                    int(seen.call[i]),
                    int(seen.call[i]) * (2 if self._model.settings.guidance else 1),
                    float(seen.dial[i]),
                    float(seen.learned[i]),
                    bool(seen.forced[i]),
                    done,
                )
            )

    def fail(self, error: Exception) -> None:
        """Tells all rows of an error, and begins with empty slots."""
        rows, self._rows, self._state = self._rows, [None] * self.slots, None
        for row in filter(None, rows):
            row.tell(error)

    def _begin(self, asks: Sequence[tuple[int, Ask]]) -> None:
        shape = self.slots, self._model.prompt_length
        tokens, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
        taken = np.zeros(self.slots, bool)
        numbers = [np.zeros(self.slots, np.float32) for _ in range(3)]
        whole = [np.zeros(self.slots, np.int32) for _ in range(2)]
        for place, ask in asks:
            taken[place] = True
            tokens[place], mask[place] = ask.tokens, ask.mask
            for array, value in zip(numbers, (ask.dial, ask.scale, ask.temperature)):
                array[place] = value
            for array, value in zip(whole, (ask.seed, ask.number)):
                array[place] = value
        new = slots_lib.Requests(Prompts(tokens, mask), *numbers, *whole)
        before = self._empty(self._model.params) if self._state is None else self._state
        self._state = self._put(self._model.params, before, new, taken)

    def _make_call(self, places: Sequence[int], size: int) -> slots_lib.Seen:
        padded = np.full(size, self.slots, np.int32)
        padded[: len(places)] = places
        self._state, seen = self._call(self._model.params, self._state, padded)
        return jax.device_get(seen)


def batch_sizes(slots: int, devices: int = 1) -> tuple[int, ...]:
    """Sizes up to `slots`, each eight times the one before, multiples of the devices."""
    sizes = []
    size = devices
    while size < slots:
        sizes.append(size)
        size *= _STEP
    return (*sizes, slots)
