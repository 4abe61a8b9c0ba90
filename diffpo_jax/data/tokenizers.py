"""Makes tokenizers, encodes texts as token ids, and decodes them.

All tokenizers are fast tokenizers of transformers; only `make_tokenizer` distinguishes them.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from diffpo_jax.config import TokenizerConfig, values
from diffpo_jax.system import hub_names
from diffpo_jax.system.errors import UserError, during
from diffpo_jax.tasks.task import Example

Tokenizer = transformers.PreTrainedTokenizerFast
_OLD_FILES = ("added_tokens.json", "special_tokens_map.json")  # tokenizer.json has it all
PAD, MASK, END = "<|pad|>", "<|mask|>", "<|end|>"  # special tokens of the tokenizer "char"


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """The ids of special tokens."""

    mask: int  # a position that is not revealed yet
    pad: int  # a position left of the prompt
    end: int  # a position after the answer


def make_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Builds or loads the tokenizer that `config.name` names.

    The tokenizer "char" has the ids 0 pad, 1 mask, 2 end of text, and then one for each character
    of `config.alphabet` in order.  It has no token for other characters: `encode_all` raises.

    Raises:
      UserError: an alphabet that is None or empty, or has a character twice; a tokenizer that
        cannot be loaded, is not a fast one, or lacks a configured token.
    """
    return _build(config.alphabet) if config.name == "char" else _load(config)


def save_with_mask(config: TokenizerConfig, directory: pathlib.Path) -> None:
    """Writes the files of a loaded tokenizer, with the mask token of the configuration in them.

    Nothing else of the configuration is written.  Raises like `make_tokenizer`.
    """
    for name in _OLD_FILES:  # copies of the files of a tokenizer without the token
        (directory / name).unlink(missing_ok=True)
    _read(config).save_pretrained(directory)


def save_own(config: TokenizerConfig, directory: pathlib.Path) -> None:
    """Writes the files of a tokenizer "char", by which transformers' AutoTokenizer loads it.

    Loaded so, it pads prompts on the left, as the sampler needs them.
    """
    tokenizer = _build(config.alphabet)
    inputs = ["input_ids", "attention_mask"]
    tokenizer.padding_side = "left"
    # Of attributes only those that it was made with are written.
    tokenizer.init_kwargs |= {"padding_side": "left", "model_input_names": inputs}
    tokenizer.save_pretrained(directory)


def alphabet_of(examples: Iterable[Example]) -> str:
    """The characters of prompts, prefills and targets, in order: an alphabet that has them all."""
    texts = (text for e in examples for text in (e.prompt, e.prefill, e.target))
    return "".join(sorted({character for text in texts for character in text}))


def _build(alphabet: str | None) -> Tokenizer:
    if alphabet is None:
        raise UserError(
            "config.tokenizer.alphabet=None means the characters of the training examples, which "
            "this command does not read. Give the characters themselves."
        )
    if not alphabet:
        raise UserError("config.tokenizer.alphabet must not be empty.")
    if twice := [c for i, c in enumerate(alphabet) if c in alphabet[:i]]:
        raise UserError(f"config.tokenizer.alphabet={alphabet!r} has {twice[0]!r} twice.")
    vocabulary = {token: i for i, token in enumerate([PAD, MASK, END, *alphabet])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary))
    every_character = tokenizers.Regex(r"[\s\S]")
    backend.pre_tokenizer = pre_tokenizers.Split(every_character, "isolated")
    backend.decoder = decoders.Fuse()
    return Tokenizer(
        tokenizer_object=backend,
        pad_token=PAD,
        mask_token=MASK,
        eos_token=END,
        split_special_tokens=True,  # "<|mask|>" in a prompt is text, not a mask
    )


def _read(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer's own files, and the mask token of the configuration."""
    where = f"config.tokenizer.name={config.name!r}"
    maker = getattr(transformers, config.kind or "AutoTokenizer", None)
    if maker is None or not hasattr(maker, "from_pretrained"):
        raise UserError(f"config.tokenizer.kind={config.kind!r} is not a class of transformers.")
    try:
        # Code in a tokenizer's repository is never run: it may do anything.
        name, revision = hub_names.split(config.name)
        pinned = {"revision": revision} if revision else {}
        with _quiet():
            tokenizer = maker.from_pretrained(name, trust_remote_code=False, **pinned)
    except Exception as error:  # from the hub, the files or the network
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(
            f'{where} cannot be loaded: {reason} It must be "char", a directory with the files '
            "of a fast tokenizer, or the name of one on the hub."
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"{where} is not a fast tokenizer: only those are supported.")
    if config.mask and config.mask_id is not None and config.mask not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"mask_token": config.mask})
    elif config.mask in tokenizer.get_vocab():
        tokenizer.mask_token = config.mask
    return tokenizer


def _load(config: TokenizerConfig) -> Tokenizer:
    where = f"config.tokenizer.name={config.name!r}"
    tokenizer = _read(config)
    known = tokenizer.get_vocab()
    named = [("mask", config.mask), ("pad", config.pad), ("closing", config.closing)]
    for field, token in named + [("ends", token) for token in config.ends]:
        if token and token not in known:
            raise UserError(f"config.tokenizer.{field}: {where} has no token {token!r}.")
    if config.pad:
        tokenizer.pad_token = config.pad
    if config.ends:
        tokenizer.eos_token = config.ends[0]
        # transformers knows one end token, so the others become an attribute.
        tokenizer.further_ends = tuple(known[token] for token in config.ends[1:])
    tokenizer.closing = (known[config.closing],) if config.closing else ()
    tokenizer.chat_arguments = _chat_arguments(config.chat_arguments)
    mask, wanted = special_ids(tokenizer).mask, config.mask_id
    if wanted not in (None, mask):
        other = tokenizer.convert_ids_to_tokens(wanted) if wanted < len(tokenizer) else None
        raise UserError(
            f"config.tokenizer.mask_id={wanted}, but the mask token {tokenizer.mask_token!r} of "
            f"{where} has the id {mask}"
            + (f", and {wanted} is {other!r}. If that" if other else ". If another token")
            + " is the model's mask, name it in config.tokenizer.mask."
        )
    return tokenizer


def _chat_arguments(given: Sequence[str]) -> dict[str, Any]:
    """The arguments of a chat template by name; values are Python literals, or else texts."""
    result = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(
                f"config.tokenizer.chat_arguments: {text!r} must have the form name=value."
            )
        result[name] = values.parse(object, value)
    return result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences transformers, which warns that model families unknown to it may not load."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(before)


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """The special ids of a tokenizer.  Raises `UserError` if one is missing."""
    ids = {
        "mask": tokenizer.mask_token_id,
        "pad": tokenizer.pad_token_id,
        "end": tokenizer.eos_token_id,
    }
    for name, value in ids.items():
        if value is None:
            field = "ends" if name == "end" else name
            new = " For a new token give config.tokenizer.mask_id too." if name == "mask" else ""
            raise UserError(
                f"The tokenizer of config.tokenizer has no {name} token. If one of its tokens "
                f"serves as such, name it in config.tokenizer.{field}.{new}"
            )
    return SpecialIds(**ids)


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that end a text; the first one fills the rest.  Raises like `special_ids`."""
    return (special_ids(tokenizer).end, *getattr(tokenizer, "further_ends", ()))


def closing_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The id that closes the answer of a chat in SFT, or nothing."""
    return getattr(tokenizer, "closing", ())


def encode_all(tokenizer: Tokenizer, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """Encodes texts, without special tokens around them.

    Raises `UserError` on characters that the tokenizer has no token for, with the name of the first
    text that has one.
    """
    if not texts:
        return []
    rows = _encode(tokenizer, list(texts))
    if rows is None:
        missing = {c for c in set("".join(texts)) if _encode(tokenizer, [c]) is None}
        if missing:
            where = next(name for name, text in zip(names, texts) if missing & set(text))
            shown = ", ".join(map(repr, sorted(missing)))
            raise UserError(
                "The tokenizer of config.tokenizer has no token for the "
                f"character{'s' * (len(missing) > 1)} {shown} in {where}"
                f"{' and others' * (len(missing) > 1)}; extend config.tokenizer.alphabet, or name "
                "another tokenizer."
            )
        raise ValueError(f"the tokenizer cannot encode {texts!r}")
    return rows


def format_chat(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Each text as the only user turn of a chat, up to the place of the model's answer.

    The template writes all special tokens, so the result is encoded without further ones.  Raises
    `UserError` if the tokenizer has no chat template, or if the template fails.
    """
    if not texts:
        return []
    with during("config.task.prompt.chat=True"):
        return format_turns(tokenizer, [[{"role": "user", "content": text}] for text in texts])


def format_turns(tokenizer: Tokenizer, chats: Sequence[Sequence[dict[str, str]]]) -> list[str]:
    """Each chat, turns with "role" and "content", up to the place of the model's next answer.

    Raises as `format_chat`.
    """
    if not tokenizer.chat_template:
        raise UserError("the tokenizer of config.tokenizer has no chat template.")
    arguments = getattr(tokenizer, "chat_arguments", {})
    try:
        return tokenizer.apply_chat_template(
            list(map(list, chats)), add_generation_prompt=True, tokenize=False, **arguments
        )
    except Exception as error:  # a template may raise anything
        raise UserError(f"the tokenizer's chat template fails ({error}).") from error


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens included: without them, the texts beside them join.

    An id that the tokenizer lacks becomes U+FFFD.
    """
    ids = np.asarray(ids, np.int64).tolist()
    known = len(tokenizer)
    runs, start = [], 0
    for place, token in enumerate([*ids, known]):
        if token >= known or token < 0:
            run = ids[start:place]
            runs.append(tokenizer.decode(run, skip_special_tokens=False) if run else "")
            start = place + 1
    return "\ufffd".join(runs)


def decode_answer(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text before the first end of text; the rest is not part of the answer."""
    ends = np.flatnonzero(np.isin(ids, end_ids(tokenizer)))
    return decode(tokenizer, ids[: ends[0]] if ends.size else ids)


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token, or the name of a special token."""
    if token in tokenizer.all_special_ids:
        return tokenizer.convert_ids_to_tokens(token)
    return tokenizer.decode([token])


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]] | None:
    """The token ids of each text, or None if a character is unknown."""
    try:
        rows = tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
    except Exception:  # tokenizers has no type of its own for unknown tokens
        return None
    unknown = tokenizer.unk_token_id
    if unknown is not None and any(unknown in row for row in rows):
        return None
    return rows
