"""From examples to batches of token ids.

The prompt side of a sequence is the example's prompt, as a user's turn where it says so, and the
beginning of the completion that is given; training, evaluation and single prompts share it.

`make_iterator` is the endless shuffled stream for training; its whole state is the number
of batches taken, so a restored run sees exactly the batches it would have seen.
`batches_in_order` goes through the examples once, for evaluation.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
import transformers

from diffpo_jax.config import PromptConfig
from diffpo_jax.data import tokenizers
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import Example


class EncodedBatch(NamedTuple):
    """B examples as token ids.

    Attributes:
      index: [B] int64, position in the sequence of examples; -1 marks a padding row.
      tokens: [B, P] int32, prompts and what is given of the completions, padded on the left.
      mask: [B, P] bool, True where `tokens` is no padding.
      target: [B, L] int32, the rest of the completions, filled up with the end-of-text id.
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
    **encoding: Any,
) -> EncodedBatch:
    """One example as an `EncodedBatch` without the batch axis.

    `encoding` is of `encode_examples`; raises like it.
    """
    batch = encode_examples([example], tokenizer, indices=[index], **encoding)
    return EncodedBatch(*(array[0] for array in batch))


def encode_examples(
    examples: Sequence[Example],
    tokenizer: transformers.PreTrainedTokenizerFast,
    *,
    indices: Sequence[int] | np.ndarray,
    prompt_length: int,
    length: int,
    truncate: bool = False,
    where: str = "config.sampler",
) -> EncodedBatch:
    """Examples as one batch.

    Args:
      examples: B of them.
      indices: [B], what goes into `EncodedBatch.index`.
      prompt_length: P.
      length: L.
      truncate: targets are cut off after L tokens.
      where: the section of the configuration that has P and L, for messages.

    Raises:
      UserError: a prompt longer than P tokens, a target longer than L that is not to be cut, a
        character that the tokenizer does not know, the tokenizer's mask in a text, or an example
        that wants a chat template where the tokenizer has none.
    """
    special = tokenizers.special_ids(tokenizer)
    names = [f"the prompt of example {example.id}" for example in examples]
    tokens, mask = _prompt_side(examples, names, tokenizer, prompt_length, where)
    target = np.full((len(examples), length), special.end, np.int32)
    names = [f"the target of example {example.id}" for example in examples]
    texts = [example.target.removeprefix(example.prefill) for example in examples]
    closing = tokenizers.closing_ids(tokenizer)
    for row, ids in enumerate(tokenizers.encode_all(tokenizer, texts, names)):
        ids = [*ids, *closing] if examples[row].chat else ids
        ids = ids[:length] if truncate else ids
        _check(names[row], ids, special.mask, f"{where}.length", length)
        target[row, : len(ids)] = ids
    return EncodedBatch(np.array(indices, np.int64), tokens, mask, target)


def encode_prompts(
    texts: Sequence[str],
    tokenizer: transformers.PreTrainedTokenizerFast,
    prompt_length: int,
    config: PromptConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Texts of prompts as `encode_examples` encodes those of examples.

    Args:
      config: whether they are chat turns, and how completions begin.  Its template is not
        applied: the texts are whole prompts.

    Returns:
      tokens [B, P] int32, padded on the left, and mask [B, P] bool.

    Raises:
      UserError: an empty prompt, and like `encode_examples`.
    """
    names = [f"prompt {i + 1}" for i in range(len(texts))]
    examples = [
        Example(name, text, "", prefill=config.prefill, chat=config.chat)
        for name, text in zip(names, texts)
    ]
    where = "config.sampler"
    tokens, mask = _prompt_side(examples, names, tokenizer, prompt_length, where)
    for name, row in zip(names, mask):
        if not row.any():
            raise UserError(f"{name} is empty: the model needs at least one token to go by.")
    return tokens, mask


def make_iterator(
    examples: Sequence[Example],
    tokenizer: transformers.PreTrainedTokenizerFast,
    *,
    batch: int,
    seed: int,
    **encoding: Any,
) -> grain.DatasetIterator:
    """An endless iterator over `EncodedBatch`es of `batch` rows in random order.

    Every epoch has its own order; a batch may reach across two epochs.  `get_state` and
    `set_state` resume it exactly; `grain.checkpoint.CheckpointSave` keeps that state as an item of
    an orbax checkpoint.

    Args:
      encoding: of `encode_examples`: the lengths, and what goes with them.

    Raises:
      UserError: no examples; and, from `next`, like `encode_examples`.
    """
    if not examples:
        raise UserError("There are no training examples: the train split of the task is empty.")

    def encode(indices: np.ndarray) -> EncodedBatch:
        rows = [examples[i] for i in indices.tolist()]
        return encode_examples(rows, tokenizer, indices=indices, **encoding)

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
    batch: int,
    **encoding: Any,
) -> Iterator[EncodedBatch]:
    """Every example once, in order, in batches of exactly `batch` rows.

    The last batch repeats its last row as often as it takes; these rows have index -1.
    `encoding` is of `encode_examples`; raises like it.
    """
    for start in range(0, len(examples), batch):
        indices = list(range(start, min(start + batch, len(examples))))
        padding = batch - len(indices)
        rows = [examples[i] for i in indices]
        yield encode_examples(
            rows + rows[-1:] * padding,
            tokenizer,
            indices=indices + [-1] * padding,
            **encoding,
        )


def _prompt_side(
    examples: Sequence[Example],
    names: Sequence[str],
    tokenizer: transformers.PreTrainedTokenizerFast,
    prompt_length: int,
    where: str,
) -> tuple[np.ndarray, np.ndarray]:
    """What the model reads, padded on the left: tokens and mask, [B, P]."""
    special = tokenizers.special_ids(tokenizer)
    turns = iter(tokenizers.as_chat(tokenizer, [e.prompt for e in examples if e.chat]))
    texts = [(next(turns) if e.chat else e.prompt) + e.prefill for e in examples]
    tokens = np.full((len(examples), prompt_length), special.pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(tokenizers.encode_all(tokenizer, texts, names)):
        _check(names[row], ids, special.mask, f"{where}.prompt_length", prompt_length)
        start = prompt_length - len(ids)
        tokens[row, start:] = ids
        mask[row, start:] = True
    return tokens, mask


def _check(name: str, ids: list[int], mask: int, field: str, most: int) -> None:
    if len(ids) > most:
        raise UserError(
            f"{name[0].upper()}{name[1:]} has {len(ids)} tokens: more than {field}={most}. "
            "Nothing is cut off silently: shorten it, or raise that."
        )
    if mask in ids:
        raise UserError(
            f"{name[0].upper()}{name[1:]} holds the tokenizer's mask token: the model would take "
            "it for a place to fill in."
        )
