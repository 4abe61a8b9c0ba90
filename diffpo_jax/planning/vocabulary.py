"""The vocabulary of a configuration, without its tokenizer where that is not at hand."""

from typing import NamedTuple

from diffpo_jax.config import Config
from diffpo_jax.data import tokenizers


class Vocabulary(NamedTuple):
    """What a program is compiled with."""

    size: int  # V
    mask: int
    ends: tuple[int, ...]  # end-of-text ids


# By config.model.family, from the config.json of GSAI-ML/LLaDA-8B and Dream-org/Dream-v0-7B.  A
# plan needs no network, so neither their tokenizers.
_PUBLISHED = {
    "llada": Vocabulary(126_464, 126_336, (126_081,)),
    "dream": Vocabulary(152_064, 151_666, (151_643,)),
}


def of_config(config: Config) -> Vocabulary:
    """That of the published family, or the tokenizer's.  Raises what `make_tokenizer` raises."""
    if config.model.family in _PUBLISHED:
        return _PUBLISHED[config.model.family]
    tokenizer = tokenizers.make_tokenizer(config.tokenizer)
    mask = tokenizers.special_ids(tokenizer).mask
    return Vocabulary(len(tokenizer), mask, tokenizers.end_ids(tokenizer))
