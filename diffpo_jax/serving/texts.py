"""Prompts as token ids, and what a row has written as text."""

import functools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffpo_jax.config import PromptConfig
from diffpo_jax.data import prompts as data
from diffpo_jax.data import tokenizers
from diffpo_jax.serving.batch import Written
from diffpo_jax.serving.refusal import Refusal
from diffpo_jax.system.errors import UserError


class Answer(NamedTuple):
    """What a row has written."""

    text: str  # before the end of the text and the first stop
    tokens: int  # up to the end of the text, itself included
    ended: bool  # by an end of text or a stop, not by the number of tokens


class Texts:
    """A tokenizer for several threads: only one uses it at a time."""

    def __init__(self, tokenizer: Any, prompt_length: int):
        self.prompt_length = prompt_length
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._ends = tokenizers.end_ids(tokenizer)
        self._piece = functools.lru_cache(2**16)(
            functools.partial(tokenizers.token_text, tokenizer)
        )

    @property
    def chats(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self._tokenizer.chat_template)

    def encode(
        self, prompts: Sequence[str | Sequence[int]], config: PromptConfig | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [B P], padded on the left, and their mask [B P].

        Args:
          prompts: all texts, or all token ids; the model reads them as they are.
          config: of the task, whose chat template and prefill are then applied to texts.

        Raises:
          Refusal: a prompt is empty or too long, or has characters that the tokenizer does not
            know.
        """
        length, tokenizer = self.prompt_length, self._tokenizer
        try:
            with self._lock:
                if isinstance(prompts[0], str):
                    return data.encode_prompts(prompts, tokenizer, length, config or PromptConfig())
                return data.encode_ids(prompts, tokenizer, length)
        except UserError as error:
            raise Refusal(str(error), "prompt") from error

    def format_turns(self, turns: list[dict[str, str]]) -> str:
        """A chat as a prompt, by the tokenizer's template.  Raises `Refusal` if that fails."""
        if not self.chats:
            raise Refusal(
                "The model's tokenizer has no chat template: use /v1/completions.", "messages"
            )
        try:
            with self._lock:
                return tokenizers.format_turns(self._tokenizer, [turns])[0]
        except UserError as error:
            raise Refusal(str(error), "messages") from error

    def answer(self, written: Written, most: int, stop: Sequence[str] = ()) -> Answer:
        """What a row has written in its first `most` tokens."""
        ids = written.tokens[:most]
        ends = np.flatnonzero(np.isin(ids, self._ends))
        count = int(ends[0]) + 1 if ends.size else len(ids)
        with self._lock:
            text = tokenizers.decode_answer(self._tokenizer, ids)
        found = [place for place in map(text.find, stop) if place >= 0]
        text = text[: min(found)] if found else text
        return Answer(text, count, bool(ends.size or found))

    def piece(self, token: int) -> str:
        """The text of one token, or the name of a special token."""
        with self._lock:
            return self._piece(token)
