"""From examples to batches of token ids.

`make_iterator` is the endless shuffled stream for training; its whole state is the number
of batches taken, so a restored run sees exactly the batches it would have seen.
`batches_in_order` goes through the examples once, for evaluation.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np
import transformers

from diffpo_jax.data import tokenizers
from diffpo_jax.errors import UserError
from diffpo_jax.tasks.task import Example


class EncodedBatch(NamedTuple):
    """B examples as token ids.

    Attributes:
      index: [B] int64, position in the sequence of examples; -1 marks a padding row.
      tokens: [B, P] int32, prompts, padded on the left.
      mask: [B, P] bool, True where `tokens` is a token of the prompt.
      target: [B, L] int32, completions, filled up with the end-of-text id.
    """

    index: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    target: np.ndarray


def encode_example(
    example: Example,
    tokenizer: transformers.PreTrainedTokenizerFast,
    *,
    index: int,
    prompt_length: int,
    length: int,
) -> EncodedBatch:
    """One example as an `EncodedBatch` without the batch axis.  Raises like `encode_examples`."""
    batch = encode_examples(
        [example], tokenizer, indices=[index], prompt_length=prompt_length, length=length
    )
    return EncodedBatch(*(array[0] for array in batch))


def encode_examples(
    examples: Sequence[Example],
    tokenizer: transformers.PreTrainedTokenizerFast,
    *,
    indices: Sequence[int] | np.ndarray,
    prompt_length: int,
    length: int,
) -> EncodedBatch:
    """Examples as one batch.

    Args:
      examples: B of them.
      indices: [B], what goes into `EncodedBatch.index`.
      prompt_length: P.
      length: L.

    Raises:
      UserError: a prompt longer than P tokens, a target longer than L tokens (nothing is
        ever cut off), or a character that the tokenizer does not know.
    """
    special = tokenizers.special_ids(tokenizer)
    size = len(examples)
    tokens = np.full((size, prompt_length), special.pad, np.int32)
    mask = np.zeros((size, prompt_length), bool)
    target = np.full((size, length), special.end, np.int32)
    prompts = tokenizers.encode_all(
        tokenizer,
        [example.prompt for example in examples],
        [f"the prompt of example {example.id}" for example in examples],
    )
    targets = tokenizers.encode_all(
        tokenizer,
        [example.target for example in examples],
        [f"the target of example {example.id}" for example in examples],
    )
    for row, (example, prompt, answer) in enumerate(zip(examples, prompts, targets)):
        _must_fit(example, "prompt", len(prompt), "prompt_length", prompt_length)
        _must_fit(example, "target", len(answer), "length", length)
        start = prompt_length - len(prompt)
        tokens[row, start:] = prompt
        mask[row, start:] = True
        target[row, : len(answer)] = answer
    return EncodedBatch(np.array(indices, np.int64), tokens, mask, target)


def encode_prompts(
    texts: Sequence[str], tokenizer: transformers.PreTrainedTokenizerFast, prompt_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bare prompts, padded on the left: tokens [B, P] int32 and mask [B, P] bool.

    Raises:
      UserError: an empty prompt, one longer than P tokens (nothing is ever cut off), or a
        character that the tokenizer does not know.
    """
    names = [f"prompt {i + 1}" for i in range(len(texts))]
    tokens = np.full((len(texts), prompt_length), tokenizers.special_ids(tokenizer).pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, ids in enumerate(tokenizers.encode_all(tokenizer, texts, names)):
        if not ids:
            raise UserError(f"{names[i]} is empty: the model needs at least one token to go by.")
        if len(ids) > prompt_length:
            raise UserError(
                f"{names[i]} has {len(ids)} tokens: more than config.sampler.prompt_length="
                f"{prompt_length}. Shorten it; nothing is cut off silently."
            )
        tokens[i, prompt_length - len(ids) :] = ids
        mask[i, prompt_length - len(ids) :] = True
    return tokens, mask


def make_iterator(
    examples: Sequence[Example],
    tokenizer: transformers.PreTrainedTokenizerFast,
    *,
    prompt_length: int,
    length: int,
    batch: int,
    seed: int,
) -> grain.DatasetIterator:
    """An endless iterator over `EncodedBatch`es of `batch` rows in random order.

    Every epoch has its own order; a batch may reach across two epochs.  `get_state` and
    `set_state` resume it exactly, as do `grain.checkpoint.CheckpointSave` and
    `CheckpointRestore` as items of an orbax checkpoint.

    Raises:
      UserError: no examples; and, from `next`, like `encode_examples`.
    """
    if not examples:
        raise UserError("There are no training examples: the train split of the task is empty.")

    def encode(indices: np.ndarray) -> EncodedBatch:
        rows = [examples[i] for i in indices.tolist()]
        return encode_examples(
            rows, tokenizer, indices=indices, prompt_length=prompt_length, length=length
        )

    # Batched before it is mapped: one call of the tokenizer a batch.
    dataset = (
        grain.MapDataset.range(len(examples))
        .seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))  # grain takes 32 bits
        .shuffle()
        .repeat()
        .batch(batch)
        .map(encode)
    )
    # The data are in memory, where threads only fight for the interpreter lock.
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


def batches_in_order(
    examples: Sequence[Example],
    tokenizer: transformers.PreTrainedTokenizerFast,
    *,
    prompt_length: int,
    length: int,
    batch: int,
) -> Iterator[EncodedBatch]:
    """Every example once, in order, in batches of exactly `batch` rows.

    The last batch repeats its last row as often as it takes; these rows have index -1.
    Raises like `encode_examples`.
    """
    for start in range(0, len(examples), batch):
        indices = list(range(start, min(start + batch, len(examples))))
        padding = batch - len(indices)
        rows = [examples[i] for i in indices]
        yield encode_examples(
            rows + rows[-1:] * padding,
            tokenizer,
            indices=indices + [-1] * padding,
            prompt_length=prompt_length,
            length=length,
        )


def _must_fit(example: Example, what: str, tokens: int, field: str, most: int) -> None:
    if tokens > most:
        raise UserError(
            f"The {what} of example {example.id} has {tokens} tokens: more than "
            f"config.sampler.{field}={most}."
        )
