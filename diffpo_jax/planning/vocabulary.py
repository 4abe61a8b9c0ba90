"""The vocabulary of a configuration, without downloading a published model's tokenizer."""

from typing import NamedTuple

from diffpo_jax.config import Config
from diffpo_jax.data import tokenizers


class Vocabulary(NamedTuple):
    """What a program needs to know of a vocabulary."""

    size: int  # V
    mask: int  # id of the mask token
    ends: tuple[int, ...]  # ids that end a text


# By config.model.family, from the config.json of GSAI-ML/LLaDA-8B, Dream-org/Dream-v0-7B,
# JetLM/SDAR-8B-Chat and Efficient-Large-Model/Fast_dLLM_v2_7B, and from the model cards of the
# conversions of Qwen.  A plan needs no network, so it cannot ask their
# tokenizers.
_PUBLISHED = {
    "llada": Vocabulary(126_464, 126_336, (126_081,)),
    "dream": Vocabulary(152_064, 151_666, (151_643,)),
    "a2d_qwen3": Vocabulary(151_936, 151_669, (151_643,)),
    "a2d_qwen2": Vocabulary(151_936, 151_665, (151_643,)),
    "sdar": Vocabulary(151_936, 151_669, (151_643,)),
    "fast_dllm_v2": Vocabulary(152_064, 151_665, (151_643,)),
    "open_dcoder": Vocabulary(151_936, 151_665, (151_643,)),
}


def make_vocabulary(config: Config) -> Vocabulary:
    """The vocabulary of the published family, or else of config.tokenizer.

    Raises:
      UserError: as `tokenizers.make_tokenizer` does.
    """
    if config.model.family in _PUBLISHED:
        return _PUBLISHED[config.model.family]
    tokenizer = tokenizers.make_tokenizer(config.tokenizer)
    mask = tokenizers.special_ids(tokenizer).mask
    return Vocabulary(len(tokenizer), mask, tokenizers.end_ids(tokenizer))
