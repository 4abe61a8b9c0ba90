"""DiFFPO on MATH: competition problems with an expression for an answer.

    python -m diffpo_jax.main --config=configs/math500.py --workdir=runs/math500 \
        --config.task.train_file=rows.jsonl --config.task.test_file=rows.jsonl

Without the two files ankner/math-500 and HuggingFaceH4/MATH-500 of the Hugging Face hub are read.

Presets, as in --config=configs/math500.py:tiny , or several, as in configs/sudoku.py
  default   the same as tiny
  tiny      a character model that writes the bare answer, for a few rows of one's own: the whole
            way from file to report in minutes on a CPU; its numbers mean nothing
  llada_8b  LLaDA-8B-Instruct with published settings
  dream_7b  the same of Dream-v0-Instruct-7B
With any of them: lora, s1k, d1, d2, gspo, justgrpo, paper; see diffpo_jax/config/presets.py .
d1's whole published protocol is llada_8b,d1 with its prompt given by
--config.task.prompt.template=@FILE .
"""

import string

import ml_collections

from diffpo_jax.config import Config, convert, presets


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a preset."""
    config = convert.as_config_dict(Config())
    config.task.name = "math500"
    if not SIZES.keys() & preset.split(","):
        _tiny(config)
    return presets.apply(config, preset, SIZES, "configs/math500.py")


def _tiny(config: ml_collections.ConfigDict) -> None:
    presets.characters(config)
    config.tokenizer.alphabet = string.printable[:95] + "\n"


SIZES = {"tiny": _tiny, **presets.published(answer="boxed", prompt_length=1024)}
