"""DiFFPO on MATH: competition problems with an expression for an answer.

    python -m diffpo_jax.main --config=configs/math500.py --workdir=runs/math500 \
        --config.task.train_file=rows.jsonl --config.task.test_file=rows.jsonl

Without the two files ankner/math-500 and HuggingFaceH4/MATH-500 of the Hugging Face hub are read.

Presets, as in --config=configs/math500.py:tiny :
  default   the same as tiny
  tiny      a character model that writes the bare answer, for a few rows of one's own: the whole
            way from file to report in minutes on a CPU; its numbers mean nothing
  llada_8b  DiFFPO on LLaDA-8B
  dream_7b  DiFFPO on Dream-7B
  d1        the published protocol of d1 on LLaDA-8B; its prompt is not ours to ship, and is given
            by --config.task.prompt.template=@FILE

The last three hold published settings: weights and tokenizers of these models cannot be loaded
yet (see `diffpo_jax/presets.py`).
"""

import string

import ml_collections

from diffpo_jax import config_io, presets
from diffpo_jax.config import Config
from diffpo_jax.errors import UserError

PRESETS = ("default", "tiny", "llada_8b", "dream_7b", "d1")


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a preset."""
    if preset not in PRESETS:
        raise UserError(f"configs/math500.py has no preset {preset!r}: {', '.join(PRESETS)}.")
    config = config_io.as_config_dict(Config())
    config.task.name = "math500"
    if preset in ("default", "tiny"):
        return _tiny(config)
    config.task.prompt.template, config.task.prompt.answer = "words", "boxed"
    config.task.prompt.chat = True
    config.sampler.prompt_length = 1024
    if preset == "d1":
        presets.llada_8b(config)
        presets.d1(config, inner_updates=12, updates=6_600)
    else:
        getattr(presets, preset)(config)
        presets.diffpo(config, inner_updates=12, updates=6_600)
    return config


def _tiny(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config.tokenizer.alphabet = string.printable[:95] + "\n"
    config.task.validation_examples = 2
    config.sampler.prompt_length = 256
    config.sampler.length = config.sampler.block_length = config.sampler.steps = 8
    config.sampler.stop_at_end = True
    config.model.width, config.model.layers, config.model.ff = 32, 2, 64
    config.model.heads = config.model.kv_heads = 2
    config.model.positions = config.sampler.prompt_length + config.sampler.length
    config.pretrain.steps, config.pretrain.batch = 20, 16
    config.rl.steps, config.rl.prompts, config.rl.group, config.rl.micro_batch = 4, 4, 4, 16
    config.evaluation.gammas = (0.0, 0.1, 1.0)
    config.evaluation.batch, config.evaluation.every, config.evaluation.examples = 16, 2, 16
    config.checkpoint.every = config.logging.samples_every = 2
    return config
