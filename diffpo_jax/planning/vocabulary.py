"""The vocabulary of a configuration, without its tokenizer where that is not at hand."""

from typing import NamedTuple

from diffpo_jax.config import Config
from diffpo_jax.data import tokenizers
from diffpo_jax.errors import UserError


class Vocabulary(NamedTuple):
    """What a program is compiled with."""

    size: int  # V
    mask: int
    ends: tuple[int, ...]  # end-of-text ids


# By the hidden size of the model: config.model.family does not tell these apart yet.  Numbers from
# the config.json of GSAI-ML/LLaDA-8B and Dream-org/Dream-v0-7B.
_PUBLISHED = {
    4096: Vocabulary(126_464, 126_336, (126_081,)),
    3584: Vocabulary(152_064, 151_666, (151_643,)),
}


def of_config(config: Config) -> Vocabulary:
    """The tokenizer's, or that of the published model with the configuration's width.

    Raises:
      UserError: neither an alphabet nor a published model.
    """
    if config.tokenizer.alphabet:
        tokenizer = tokenizers.make_tokenizer(config.tokenizer)
        mask = tokenizers.special_ids(tokenizer).mask
        return Vocabulary(len(tokenizer), mask, tokenizers.end_ids(tokenizer))
    if config.model.width not in _PUBLISHED:
        raise UserError(
            f"config.tokenizer.alphabet is empty and config.model.width={config.model.width} is "
            "that of no published model (LLaDA-8B 4096, Dream-7B 3584): the size of the "
            "vocabulary is not known. Give an alphabet."
        )
    return _PUBLISHED[config.model.width]
