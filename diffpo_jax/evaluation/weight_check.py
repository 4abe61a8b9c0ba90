"""Whether weights predict hidden words of ordinary sentences, and if not, what else they do.

A checkpoint that is read with a wrong convention gives no error: its network just predicts badly.
This shows in the loss of hidden tokens, in nats, which one that knows a language predicts far
better than by a guess among all tokens (the log of the vocabulary).  One program, compiled once,
reads the sentences as the configuration has it, and then with what may be wrong put right:

    the other logit shift                    a wrong family
    attention to earlier tokens alone        a network that writes from left to right
    the embedding in place of the head       a head that should be tied to it
    another token in place of the mask       a wrong mask token
    another base of the rotary embedding     a wrong rope_theta

Losses decide, with the margins below (our choice).  They are of a few sentences: they find a model
that is garbled, not one that is merely weak.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import ModelConfig
from diffpo_jax.data import tokenizers
from diffpo_jax.diffusion import token_distribution
from diffpo_jax.models.families import FAMILIES
from diffpo_jax.models.policy import Policy
from diffpo_jax.system.errors import UserError

SENTENCES = (
    "The sun rises in the east and sets in the west every day of the year.",
    "She opened the door, looked around the empty room and closed it again.",
    "There are seven days in a week and twelve months in a year.",
    "Water boils when it is hot enough and turns to ice when it is very cold.",
    "The children went to school in the morning and came home in the afternoon.",
    "If you add two and three, you get five, and two times three is six.",
)
OPENING = "The capital of France is"
_WRITTEN = 8  # tokens of the completion, two a call
_HIDDEN = 0.2  # share of the tokens that are hidden
_SEED = 0
# Shares of the loss of a guess: below the first a model knows the text, above the second it does
# not know anything of it.
_KNOWS, _NOTHING = 0.5, 0.8
# A loss is clearly below another if it is so by this factor and by this many nats.
_FACTOR, _NATS = 0.75, 0.5
_THETAS = (10_000.0, 500_000.0, 1_000_000.0)  # bases of published models
_OTHER_MASKS = 12  # tokens that are tried in place of the mask, at most
_SMALL_NORM = 0.1  # of the mask's row of the embedding, over the median of the others


class Verdict(NamedTuple):
    """What the losses say."""

    ok: bool | None  # None if they are neither good nor clearly bad
    text: str
    losses: dict[str, float]  # nats a token, of what was tried
    completion: str  # of `OPENING`, most probable tokens; "" if nothing was written

    def line(self) -> str:
        """The verdict and the completion in one line."""
        written = f" {OPENING!r} goes on with {self.completion!r}." if self.completion else ""
        return self.text + written


class Rows(NamedTuple):
    """Texts as rows of tokens, padded on the left, some of which are hidden."""

    tokens: Int[np.ndarray, "R S"]
    mask: Bool[np.ndarray, "R S"]  # False at padding
    hidden: Bool[np.ndarray, "R S"]


class Reading(NamedTuple):
    """What the logits of each position say."""

    own: Float[Array, "R S"]  # log-probability of the token that is there
    following: Float[Array, "R S"]  # and of the next one
    best: Int[Array, "R S"]  # the most probable token
    best_log_prob: Float[Array, "R S"]


def ordinary_rows(tokenizer: Any) -> Rows | None:
    """The sentences, a fifth of their tokens hidden; None if the tokenizer cannot write them."""
    try:
        ids = tokenizers.encode_all(tokenizer, SENTENCES, SENTENCES)
    except UserError:
        return None
    length = max(len(row) for row in ids)
    tokens = np.full((len(ids), length), tokenizers.special_ids(tokenizer).pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, of_row in enumerate(ids):
        tokens[row, length - len(of_row) :] = of_row
        mask[row, length - len(of_row) :] = True
    return Rows(tokens, mask, _hide(mask & (np.cumsum(mask, axis=1) > 1)))


def demonstrated_rows(
    tokens: Int[np.ndarray, "R P"],
    mask: Bool[np.ndarray, "R P"],
    target: Int[np.ndarray, "R L"],
    end: int,
) -> Rows:
    """Prompts with their answers, a fifth of the answers' tokens hidden, and no end of text."""
    whole = np.concatenate([tokens, target], axis=1)
    written = np.concatenate([np.zeros_like(mask), target != end], axis=1)
    all_seen = np.concatenate([mask, np.ones(target.shape, bool)], axis=1)
    return Rows(whole, all_seen, _hide(written))


def check(
    policy: Policy,
    params: Params,
    tokenizer: Any,
    model: ModelConfig,
    *,
    demonstrations: Callable[[], Rows] | None = None,
    replicated: Any = None,
) -> Verdict | None:
    """Reads the sentences with a network, and says what it makes of them.

    Args:
      model: of this network.
      demonstrations: rows of the task, which are read if the network does not know the sentences:
        one that was trained on nothing else may know these.
      replicated: the sharding of results that every process reads; None for one process.

    Returns:
      None if the tokenizer has no tokens for ordinary sentences.
    """
    rows = ordinary_rows(tokenizer)
    if rows is None:
        return None
    program = jax.jit(functools.partial(read, policy), out_shardings=replicated)
    trial = _Trial(program, params, rows, policy, model.rope_theta)
    guess, shift = math.log(len(tokenizer)), policy.logit_shift
    # 1. As the configuration has it.
    by_shift = trial.hidden()
    own, other = by_shift[shift], by_shift[1 - shift]
    losses = {"guess": guess, f"shift {shift}": own, f"shift {1 - shift}": other}
    if not math.isfinite(own + other):
        return Verdict(False, "The logits are not finite: the weights are damaged.", losses, "")
    losses["left to right"] = trial.left_to_right()
    completion = _complete(trial, tokenizer, shift)
    found = _Found(trial, tokenizer, model, losses, own, other)
    shifted = _predicts_by_the_other_shift(found)
    if own < found.knows and not shifted:
        if fault := _has_another_base(found):
            return Verdict(False, fault, losses, completion)
        text = f"Hidden words of ordinary sentences are predicted: {found.said}."
        return Verdict(True, text, losses, completion)
    if demonstrations is not None:
        # Rows of another length, for which the program is compiled again.
        shown = trial._replace(rows=demonstrations()).hidden()[shift]
        losses["demonstrations"] = shown
        if shown < found.knows:
            text = (
                f"Hidden words of the task's answers are predicted ({shown:.1f} nats a hidden "
                f"token), though not those of ordinary sentences ({found.said})."
            )
            return Verdict(True, text, losses, completion)
    # 2. With what may be wrong put right.
    for fault in _FAULTS:
        if text := fault(found):
            return Verdict(False, text, losses, completion)
    text = (
        "Hidden words of ordinary sentences are predicted badly, for no reason found: "
        f"{found.said}."
    )
    return Verdict(None, text, losses, completion)


class _Found(NamedTuple):
    """A network that may be at fault, and what is known of it."""

    trial: "_Trial"
    tokenizer: Any
    model: ModelConfig
    losses: dict[str, float]  # as in `Verdict`; what is tried is added
    own: float  # nats a hidden token, as the configuration has it
    other: float  # with the other logit shift

    @property
    def shift(self) -> int:
        return self.trial.policy.logit_shift

    @property
    def knows(self) -> float:
        """The loss below which a network knows the text."""
        return _KNOWS * self.losses["guess"]

    @property
    def said(self) -> str:
        """The loss beside that of a guess, in words."""
        return f"{self.own:.1f} nats a hidden token, where a guess has {self.losses['guess']:.1f}"

    def explains(self, loss: float) -> bool:
        """Whether a change that gives this loss puts right what was wrong."""
        return clearly_below(loss, self.own) and loss < _NOTHING * self.losses["guess"]


def _writes_from_left_to_right(found: _Found) -> str:
    """The fault in words if a causal network was never made a diffusion model; else ""."""
    left, best = found.losses["left to right"], min(found.own, found.other)
    if best <= found.knows or not (found.explains(left) and clearly_below(left, best)):
        return ""
    return (
        "The weights write from left to right and were never made a diffusion model: "
        f"{found.said}, but {left:.1f} if each token is predicted from those before it. Convert "
        "them by SFT first (docs/models.md, From an autoregressive checkpoint)."
    )


def _predicts_by_the_other_shift(found: _Found) -> str:
    if not found.explains(found.other):
        return ""
    named = ("their own", "the next")
    right = 1 - found.shift
    return (
        f"The logits predict {named[right]} position, not {named[found.shift]} one: {found.said}, "
        f"but {found.other:.1f} with the other shift. Set "
        f"config.model.logit_shift={right}{_families_with(right, found.model.family)}."
    )


def _lacks_the_tied_head(found: _Found) -> str:
    if found.model.tied:
        return ""
    found.losses["tied"] = tied = found.trial.with_tied_head().hidden()[found.shift]
    if not found.explains(tied):
        return ""
    return (
        f"The embedding should also give the logits: {found.said}, but {tied:.1f} with the two "
        "tied. The head's own weights are missing or not those of this checkpoint."
    )


def _has_another_mask(found: _Found) -> str:
    policy, tokenizer = found.trial.policy, found.tokenizer
    loss, token = min(
        (found.trial.hidden(fill=token)[found.shift], token)
        for token in _other_masks(tokenizer, policy)
    )
    found.losses["other mask"] = loss
    if not found.explains(loss):
        return ""
    name = tokenizer.convert_ids_to_tokens(token) if token < len(tokenizer) else "no token yet"
    return (
        f"Another token is the mask: {found.said}, but {loss:.1f} with {token} ({name}) in place "
        f"of {policy.mask_id}. Name it in config.tokenizer.mask and mask_id."
    )


def _has_another_base(found: _Found) -> str:
    theta = found.trial.theta
    loss, base = min(
        (found.trial.hidden(theta=base)[found.shift], base) for base in _THETAS if base != theta
    )
    found.losses["other base"] = loss
    if not found.explains(loss):
        return ""
    return (
        f"The base of the rotary embedding is wrong: {found.said}, but {loss:.1f} with {base:g} in "
        f"place of {theta:g}. Correct rope_theta in the checkpoint's config.json."
    )


def _has_an_untrained_mask(found: _Found) -> str:
    trial = found.trial
    norm = _relative_norm(trial.params, trial.policy.mask_id, len(found.tokenizer))
    found.losses["norm of the mask's embedding"] = norm
    if norm >= _SMALL_NORM:
        return ""
    return (
        f"The mask token's embedding was never trained: {found.said}, and its norm is {norm:.2g} "
        "of the other tokens'. Name the trained mask token in config.tokenizer.mask and mask_id."
    )


def _knows_nothing(found: _Found) -> str:
    if found.own <= _NOTHING * found.losses["guess"]:
        return ""
    return (
        f"The weights know no more than a guess: {found.said}. They are random, of another "
        "tokenizer, or read with a wrong config.json."
    )


# In this order: an earlier fault would also look like a later one.
_FAULTS = (
    _writes_from_left_to_right,
    _predicts_by_the_other_shift,
    _lacks_the_tied_head,
    _has_another_mask,
    _has_another_base,
    _has_an_untrained_mask,
    _knows_nothing,
)


def clearly_below(loss: float, other: float) -> bool:
    """Whether a loss is below another by more than two readings of few tokens differ."""
    return loss < _FACTOR * other and loss < other - _NATS


class _Trial(NamedTuple):
    """Rows, and the network that reads them in one way or another."""

    read: Callable[..., Reading]
    params: Params
    rows: Rows
    policy: Policy
    theta: float

    def reading(
        self, tokens: Int[np.ndarray, "R S"], *, causal: bool = False, theta: float | None = None
    ) -> Reading:
        base = np.float32(self.theta if theta is None else theta)
        out = self.read(
            self.params, tokens, self.rows.tokens, self.rows.mask, np.bool_(causal), base
        )
        return jax.device_get(out)

    def hidden(self, fill: int | None = None, **how: Any) -> tuple[float, float]:
        """Nats a hidden token if logits predict their own position, and if they do the next."""
        fill = self.policy.mask_id if fill is None else fill
        hidden = self.rows.hidden
        out = self.reading(np.where(hidden, np.int32(fill), self.rows.tokens), **how)
        return -float(out.own[hidden].mean()), -float(out.following[:, :-1][hidden[:, 1:]].mean())

    def left_to_right(self) -> float:
        """Nats a token if each is predicted from those before it, and no token is hidden."""
        out, mask = self.reading(self.rows.tokens, causal=True), self.rows.mask
        return -float(out.following[:, :-1][mask[:, :-1]].mean())

    def with_tied_head(self) -> "_Trial":
        denoiser = self.params["denoiser"]
        head = jnp.asarray(denoiser["embed"].T, denoiser["unembed"].dtype)
        return self._replace(params=self.params | {"denoiser": denoiser | {"unembed": head}})


def read(
    policy: Policy,
    params: Params,
    tokens: Int[Array, "R S"],
    right: Int[Array, "R S"],
    mask: Bool[Array, "R S"],
    causal: Bool[Array, ""],
    theta: Float[Array, ""],
) -> Reading:
    """Reads rows; `right` has the tokens that are hidden in `tokens`."""
    states = policy.hidden_under(params, tokens, mask, causal, theta)
    following = jnp.roll(right, -1, axis=1)

    def read_row(x: tuple[Array, Array, Array]) -> Reading:
        # A row at a time: distributions of all of them would be large.
        hidden, own, after = x
        log_p = token_distribution.log_probs(policy.logits(params, hidden), policy.mask_id, 1.0)
        best = jnp.argmax(log_p, axis=-1).astype(jnp.int32)
        score = functools.partial(token_distribution.token_log_prob, log_p)
        return Reading(score(own), score(after), best, score(best))

    return jax.lax.map(read_row, (states, right, following))


def _complete(trial: _Trial, tokenizer: Any, shift: int) -> str:
    """The most probable continuation of the opening, two tokens a call, the surest first."""
    (opening,) = tokenizers.encode_all(tokenizer, [OPENING], [OPENING])
    length = trial.rows.tokens.shape[1]
    start = length - _WRITTEN
    if len(opening) > start - shift:
        return ""
    # In the first of as many rows as the program has; the others are copies.
    tokens, mask = np.array(trial.rows.tokens), np.zeros(trial.rows.mask.shape, bool)
    tokens[:, start - len(opening) : start], tokens[:, start:] = opening, trial.policy.mask_id
    mask[:, start - len(opening) :] = True
    trial, open_ = trial._replace(rows=trial.rows._replace(mask=mask)), np.ones(_WRITTEN, bool)
    while open_.any():
        out = trial.reading(tokens)
        places = slice(start - shift, length - shift)
        sure = np.where(open_, out.best_log_prob[0, places], -np.inf)
        chosen = np.argsort(-sure)[: min(2, int(open_.sum()))]
        tokens[:, start + chosen] = out.best[0, places][chosen]
        open_[chosen] = False
    return tokenizers.decode_answer(tokenizer, tokens[0, start:])


def _families_with(shift: int, like: str) -> str:
    """The families with the same tensors, the same blocks and this shift, in words."""
    wanted = (FAMILIES[like].weights, FAMILIES[like].origin, shift)
    kinds = {name: (f.weights, f.origin, f.logit_shift) for name, f in FAMILIES.items()}
    found = [name for name, kind in kinds.items() if kind == wanted and name != like]
    return f", or config.model.family to {' or '.join(found)}" if found else ""


def _other_masks(tokenizer: Any, policy: Policy) -> list[int]:
    """Tokens that might be the mask instead: special ones, those named so first; its neighbours."""
    added = tokenizer.get_added_vocab()
    named = sorted(added, key=lambda token: ("mask" not in token.lower(), added[token]))
    beside = [policy.mask_id + step for step in (1, -1, 2)]
    special = tokenizers.special_ids(tokenizer)
    found = [added[token] for token in named if "mask" in token.lower()]
    found += [*beside, special.pad, special.end, *(added[token] for token in named)]
    valid = [n for n in dict.fromkeys(found) if 0 <= n < policy.vocab and n != policy.mask_id]
    return valid[:_OTHER_MASKS]


def _relative_norm(params: Params, mask_id: int, tokens: int) -> float:
    """The norm of the mask's row of the embedding over the median of the tokenizer's others."""
    table = params["denoiser"]["embed"]
    norms = jnp.linalg.norm(table[:tokens].astype(jnp.float32), axis=1)
    return float(norms[mask_id] / jnp.median(norms))


def _hide(allowed: Bool[np.ndarray, "R S"]) -> Bool[np.ndarray, "R S"]:
    """A fifth of the allowed tokens of each row, at least one if there is one."""
    drawn = np.random.default_rng(_SEED).random(allowed.shape)
    rank = np.argsort(np.argsort(np.where(allowed, drawn, np.inf), axis=1), axis=1)
    count = np.ceil(_HIDDEN * allowed.sum(axis=1, keepdims=True))
    return allowed & (rank < count)
