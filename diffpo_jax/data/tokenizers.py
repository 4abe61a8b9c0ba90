"""Tokenizers: from the configuration to token ids and back.

All tokenizers are fast ones of transformers; only `make_tokenizer` knows which one it made.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from diffpo_jax.config import TokenizerConfig
from diffpo_jax.system import hub_names
from diffpo_jax.system.errors import UserError

PAD, MASK, END = "<|pad|>", "<|mask|>", "<|end|>"  # of the "char" tokenizer


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Token ids with a meaning: not revealed yet, left of the prompt, after the answer."""

    mask: int
    pad: int
    end: int


def make_tokenizer(config: TokenizerConfig) -> transformers.PreTrainedTokenizerFast:
    """Builds or loads the tokenizer that `config.name` asks for.

    "char" has the ids 0 pad, 1 mask, 2 end of text, then one for each character of
    `config.alphabet` in its order.  It has no token for unknown characters: `encode` raises.

    Raises:
      UserError: an empty alphabet, or a character twice in it; a tokenizer that cannot be loaded,
        is not a fast one, or lacks a token it is said to have.
    """
    return _of_characters(config.alphabet) if config.name == "char" else _loaded(config)


def _of_characters(alphabet: str) -> transformers.PreTrainedTokenizerFast:
    if not alphabet:
        raise UserError("config.tokenizer.alphabet is empty: the tokenizer needs characters.")
    if twice := [c for i, c in enumerate(alphabet) if c in alphabet[:i]]:
        raise UserError(f"config.tokenizer.alphabet={alphabet!r} holds {twice[0]!r} twice.")
    vocabulary = {token: i for i, token in enumerate([PAD, MASK, END, *alphabet])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary))
    every_character = tokenizers.Regex(r"[\s\S]")
    backend.pre_tokenizer = pre_tokenizers.Split(every_character, "isolated")
    backend.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        mask_token=MASK,
        eos_token=END,
        split_special_tokens=True,  # "<|mask|>" in a prompt is text, not a mask
    )


def _loaded(config: TokenizerConfig) -> transformers.PreTrainedTokenizerFast:
    where = f"config.tokenizer.name={config.name!r}"
    maker = getattr(transformers, config.kind or "AutoTokenizer", None)
    if maker is None or not hasattr(maker, "from_pretrained"):
        raise UserError(f"config.tokenizer.kind={config.kind!r} is no class of transformers.")
    try:
        # Code that comes with a tokenizer is never run: that needs a promise we do not give.
        name, revision = hub_names.split(config.name)
        pinned = {"revision": revision} if revision else {}
        with _quiet():
            tokenizer = maker.from_pretrained(name, trust_remote_code=False, **pinned)
    except Exception as error:  # of the hub, of its files, of the network
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(
            f'{where} cannot be loaded: {reason} It is to be "char", a directory with a fast '
            "tokenizer's files, or the name of one on the hub."
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"{where} is not a fast tokenizer: only those are supported.")
    known = tokenizer.get_vocab()
    named = {
        "mask": (config.mask,),
        "pad": (config.pad,),
        "ends": config.ends,
        "closing": (config.closing,),
    }
    for field, tokens in named.items():
        for token in tokens:
            if token and token not in known:
                raise UserError(f"config.tokenizer.{field}: {where} has no token {token!r}.")
    if config.mask:
        tokenizer.mask_token = config.mask
    if config.pad:
        tokenizer.pad_token = config.pad
    if config.ends:
        tokenizer.eos_token = config.ends[0]
        # Transformers knows one; the others travel with the object.
        tokenizer.further_ends = tuple(known[token] for token in config.ends[1:])
    tokenizer.closing = (known[config.closing],) if config.closing else ()
    special_ids(tokenizer)
    return tokenizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of transformers: of families that it does not know it says they may not load."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(before)


def special_ids(tokenizer: transformers.PreTrainedTokenizerFast) -> SpecialIds:
    """The special ids of a tokenizer.  Raises `UserError` if it lacks one."""
    ids = {
        "mask": tokenizer.mask_token_id,
        "pad": tokenizer.pad_token_id,
        "end": tokenizer.eos_token_id,
    }
    for name, value in ids.items():
        if value is None:
            field = "ends" if name == "end" else name
            raise UserError(
                f"The tokenizer of config.tokenizer has no {name} token; if one of its tokens is "
                f"meant to be that, name it in config.tokenizer.{field}."
            )
    return SpecialIds(**ids)


def end_ids(tokenizer: transformers.PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The ids that end a text; the first is what fills the rest.  Raises like `special_ids`."""
    return (special_ids(tokenizer).end, *getattr(tokenizer, "further_ends", ()))


def closing_ids(tokenizer: transformers.PreTrainedTokenizerFast) -> tuple[int, ...]:
    """What closes the answer of a chat in SFT: one id, or none."""
    return getattr(tokenizer, "closing", ())


def encode(
    tokenizer: transformers.PreTrainedTokenizerFast, text: str, name: str = "the text"
) -> list[int]:
    """Token ids of a text, without special tokens around it.

    Raises:
      UserError: a character the tokenizer has no token for; the message gives it and `name`.
    """
    return encode_all(tokenizer, [text], [name])[0]


def encode_all(
    tokenizer: transformers.PreTrainedTokenizerFast, texts: Sequence[str], names: Sequence[str]
) -> list[list[int]]:
    """`encode` for several texts in one call, which is faster."""
    if not texts:
        return []
    rows = _encode(tokenizer, list(texts))
    if rows is None:
        for name, text in zip(names, texts):
            for character in text:
                if _encode(tokenizer, [character]) is None:
                    raise UserError(
                        f"The tokenizer of config.tokenizer has no token for the character "
                        f"{character!r} in {name}."
                    )
        raise ValueError(f"the tokenizer cannot encode {texts!r}")
    return rows


def as_chat(tokenizer: transformers.PreTrainedTokenizerFast, texts: Sequence[str]) -> list[str]:
    """Each text as the one turn of a user, up to where the model is to answer.

    The template writes the special tokens it wants: what comes out is encoded without others.

    Raises:
      UserError: the tokenizer has no chat template, or its template fails.
    """
    if not texts:
        return []
    if not tokenizer.chat_template:
        raise UserError(
            "config.task.prompt.chat=True: the tokenizer of config.tokenizer has no chat template."
        )
    turns = [[{"role": "user", "content": text}] for text in texts]
    try:
        return tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # whatever a template does
        raise UserError(
            f"config.task.prompt.chat=True: the tokenizer's chat template fails ({error})."
        ) from error


def decode(tokenizer: transformers.PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of token ids; special tokens, and ids the tokenizer lacks, leave no trace."""
    return tokenizer.decode(np.asarray(ids, np.int64).tolist(), skip_special_tokens=True)


def decode_answer(tokenizer: transformers.PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text up to the first end of text; what was written after it is no part of the answer."""
    ids, ends = np.asarray(ids), end_ids(tokenizer)
    found = np.flatnonzero(np.isin(ids, ends))
    return decode(tokenizer, ids[: found[0]] if found.size else ids)


def piece(tokenizer: transformers.PreTrainedTokenizerFast, token: int) -> str:
    """The text of one token by itself; a special token's name."""
    if token in tokenizer.all_special_ids:
        return tokenizer.convert_ids_to_tokens(token)
    return tokenizer.decode([token])


def _encode(
    tokenizer: transformers.PreTrainedTokenizerFast, texts: list[str]
) -> list[list[int]] | None:
    """Token ids by text; None if any text holds something unknown."""
    try:
        rows = tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
    except Exception:  # the tokenizers library raises no other type for an unknown token
        return None
    unknown = tokenizer.unk_token_id
    if unknown is not None and any(unknown in row for row in rows):
        return None
    return rows
