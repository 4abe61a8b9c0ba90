"""Encodes examples as batches of token ids.

The prompt side of a sequence is the example's prompt, as a user's turn if `Example.chat`, and its
prefill.  Training, evaluation and single prompts share the code that encodes it.

`make_iterator` is the endless shuffled stream for training.  Its whole state is the number of
batches taken, so a restored run gets exactly the batches that it would have got.
`batches_in_order` yields every example once, for evaluation.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from diffpo_jax.config import PromptConfig
from diffpo_jax.data import tokenizers
from diffpo_jax.data.tokenizers import Tokenizer
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import Example


class TooLong(UserError):
    """A prompt or a target has more tokens than there is room for."""


class EncodedBatch(NamedTuple):
    """B examples as token ids.

    Attributes:
      index: [B] int64, the position among the examples, or -1 for a padding row.
      tokens: [B, P] int32, prompts and prefills, padded on the left.
      mask: [B, P] bool, False for the padding of `tokens`.
      target: [B, L] int32, the completions without prefills, filled up with the end-of-text id.
    """

    index: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    target: np.ndarray


def encode_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    indices: Sequence[int] | np.ndarray,
    prompt_length: int,
    length: int,
    truncate: bool = False,
    where: str = "config.sampler",
) -> EncodedBatch:
    """Encodes B examples as one batch.

    Args:
      indices: [B], the values of `EncodedBatch.index`.
      prompt_length: P.
      length: L.
      truncate: whether targets are cut off after L tokens.
      where: the section of the configuration that has P and L, for messages.

    Raises:
      TooLong: a prompt longer than P tokens, or a target longer than L without `truncate`.
      UserError: a character that the tokenizer does not know, the tokenizer's mask token in a text,
        or an example with `chat` if the tokenizer has no chat template.
    """
    special = tokenizers.special_ids(tokenizer)
    names = [f"the prompt of example {example.id}" for example in examples]
    tokens, mask = _prompt_side(examples, names, tokenizer, prompt_length, where)
    target = np.full((len(examples), length), special.end, np.int32)
    names = [f"the target of example {example.id}" for example in examples]
    for row, ids in enumerate(_target_ids(examples, names, tokenizer)):
        ids = ids[:length] if truncate else ids
        _check(names[row], ids, special.mask, f"{where}.length", length)
        target[row, : len(ids)] = ids
    return EncodedBatch(np.array(indices, np.int64), tokens, mask, target)


def longest(examples: Sequence[Example], tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens of the longest prompt, with its prefill, and of the longest target."""
    names = [f"example {example.id}" for example in examples]
    sides = _prompt_ids(examples, names, tokenizer), _target_ids(examples, names, tokenizer)
    prompt, target = (max(map(len, ids), default=0) for ids in sides)
    return prompt, target


def encode_prompts(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    prompt_length: int,
    config: PromptConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes whole prompts as `encode_examples` encodes those of examples.

    `chat` and `prefill` of `config` are applied, its template is not.  Returns tokens [B, P] int32,
    padded on the left, and mask [B, P] bool.  Raises `UserError` also if a prompt is empty.
    """
    names = [f"prompt {i + 1}" for i in range(len(texts))]
    examples = [
        Example(name, text, "", prefill=config.prefill, chat=config.chat)
        for name, text in zip(names, texts)
    ]
    rows = _prompt_ids(examples, names, tokenizer)
    return encode_ids(rows, tokenizer, prompt_length)


def encode_ids(
    rows: Sequence[Sequence[int]], tokenizer: Tokenizer, prompt_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Whole prompts that are token ids already, like `encode_prompts`."""
    for number, ids in enumerate(rows, 1):
        if not ids:
            raise UserError(f"prompt {number} is empty: the model needs at least one token.")
        if odd := [x for x in ids if not 0 <= x < len(tokenizer)]:
            raise UserError(
                f"prompt {number} has the token id {odd[0]}: the tokenizer has the ids 0 to "
                f"{len(tokenizer) - 1}."
            )
    names = [f"prompt {i + 1}" for i in range(len(rows))]
    return _pad(rows, names, tokenizer, prompt_length, "config.sampler")


def make_iterator(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    batch: int,
    seed: int,
    **encoding: Any,
) -> grain.DatasetIterator:
    """An endless iterator over `EncodedBatch`es of `batch` rows in random order.

    Every epoch has its own order, and a batch may extend over two epochs.  `get_state` and
    `set_state` resume it exactly; `grain.checkpoint.CheckpointSave` saves that state as an item of
    an orbax checkpoint.  `encoding` holds further arguments of `encode_examples`.

    Raises:
      UserError: no examples; and, from `next`, like `encode_examples`.
    """
    if not examples:
        raise UserError("There are no training examples: the train split of the task is empty.")

    def encode(indices: np.ndarray) -> EncodedBatch:
        rows = [examples[i] for i in indices.tolist()]
        return encode_examples(rows, tokenizer, indices=indices, **encoding)

    # Batched before it is mapped, so that the tokenizer is called once per batch.
    dataset = (
        grain.MapDataset.range(len(examples))
        .seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))  # grain takes 32 bits
        .shuffle()
        .repeat()
        .batch(batch)
        .map(encode)
    )
    # No threads: the data are in memory, and threads would only compete for the interpreter lock.
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


def batches_in_order(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    batch: int,
    **encoding: Any,
) -> Iterator[EncodedBatch]:
    """Yields every example once, in order, in batches of exactly `batch` rows.

    The last batch is filled up with copies of its last row, whose index is -1.  `encoding` holds
    further arguments of `encode_examples`; raises like it.
    """
    for start in range(0, len(examples), batch):
        indices = list(range(start, min(start + batch, len(examples))))
        padding = batch - len(indices)
        rows = [examples[i] for i in indices + indices[-1:] * padding]
        yield encode_examples(rows, tokenizer, indices=indices + [-1] * padding, **encoding)


def _prompt_side(
    examples: Sequence[Example],
    names: Sequence[str],
    tokenizer: Tokenizer,
    prompt_length: int,
    where: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that the model reads, padded on the left, and their mask: [B, P]."""
    return _pad(_prompt_ids(examples, names, tokenizer), names, tokenizer, prompt_length, where)


def _pad(
    rows: Sequence[Sequence[int]],
    names: Sequence[str],
    tokenizer: Tokenizer,
    prompt_length: int,
    where: str,
) -> tuple[np.ndarray, np.ndarray]:
    special = tokenizers.special_ids(tokenizer)
    tokens = np.full((len(rows), prompt_length), special.pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(rows):
        _check(names[row], ids, special.mask, f"{where}.prompt_length", prompt_length)
        start = prompt_length - len(ids)
        tokens[row, start:] = ids
        mask[row, start:] = True
    return tokens, mask


def _prompt_ids(
    examples: Sequence[Example], names: Sequence[str], tokenizer: Tokenizer
) -> list[list[int]]:
    """The tokens of each prompt, as a user's turn if it is one, with its prefill."""
    turns = iter(tokenizers.format_chat(tokenizer, [e.prompt for e in examples if e.chat]))
    texts = [(next(turns) if e.chat else e.prompt) + e.prefill for e in examples]
    return tokenizers.encode_all(tokenizer, texts, names)


def _target_ids(
    examples: Sequence[Example], names: Sequence[str], tokenizer: Tokenizer
) -> list[list[int]]:
    """The tokens of each target without its prefill; an answer to a turn has its closing token."""
    texts = [example.target.removeprefix(example.prefill) for example in examples]
    encoded = tokenizers.encode_all(tokenizer, texts, names)
    closing = tokenizers.closing_ids(tokenizer)
    return [[*ids, *closing] if e.chat else list(ids) for e, ids in zip(examples, encoded)]


def _check(name: str, ids: Sequence[int], mask: int, field: str, most: int) -> None:
    name = name[0].upper() + name[1:]
    if len(ids) > most:
        raise TooLong(
            f"{name} has {len(ids)} tokens, more than {field}={most}. Shorten it, or raise "
            f"{field}: nothing is cut off silently."
        )
    if mask in ids:
        raise UserError(
            f"{name} contains the tokenizer's mask token, which the model would take for a "
            "position to fill in."
        )
