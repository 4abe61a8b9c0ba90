"""The sampler of an exported model, for PyTorch: its settings, its head, and the code that decodes.

sampler.json                     what the code reads, see `settings`
sampler_head.safetensors         the head's parameters by names with dots; kernels are [in, out]
custom_generate/generate.py      the code, which needs nothing of this package
"""

import dataclasses
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np

from diffpo_jax.arrays.types import Params
from diffpo_jax.config import DIALS, RANKINGS, Config
from diffpo_jax.data import tokenizers
from diffpo_jax.diffusion import sampler as sampler_lib
from diffpo_jax.evaluation import threshold_choice
from diffpo_jax.models import families, tensor_files
from diffpo_jax.system import files

SETTINGS, HEAD, CODE = "sampler.json", "sampler_head.safetensors", "custom_generate/generate.py"
# Code for PyTorch, which this package never imports: text, not modules.
TEMPLATES = pathlib.Path(__file__).parent / "templates"

UNITS = {
    "gamma": "nats",
    "steps": "calls of a completion",
    "confidence": "probability",
    "price": "of `length` calls, in units of the largest reward",
}
_FEATURES = {
    "prompt": "mean of the last hidden states over the prompt's tokens, in the first call",
    "state": "entropies, clashes, ranks, price and last hidden states of a call's own outputs",
}
# Families whose published code takes a mask of pairs of tokens and their positions.  That of the
# others takes a mask of tokens.
_PAIRS = ("dream", "open_dcoder")


class Written(NamedTuple):
    """What was written of a sampler."""

    settings: dict[str, Any] | None  # the content of sampler.json; None if nothing was written
    line: str  # the rule and its number, or why nothing was written


def write(directory: pathlib.Path, config: Config, model: str, params: Params) -> Written:
    """Writes the files to the directory of an export, if their code can decode as the run does.

    Args:
      config: of the run.
      model: "trained" or "base", which has the base's commit rule and no head.
      params: of the model, whole on this host.
    """
    (directory / SETTINGS).unlink(missing_ok=True)  # a copy of that of the weights RL began from
    config = of_base(config) if model == "base" else config
    if why := refusal(config):
        return Written(None, f"not written, because its code for PyTorch has no {why}")
    found = settings(config, model)
    files.write_json(directory / SETTINGS, found)
    if found["head"]:
        tensor_files.save(tensors(params[_head_of(config)]), directory / HEAD)
    (directory / CODE).parent.mkdir()
    shutil.copyfile(TEMPLATES / "generate.py.txt", directory / CODE)
    return Written(found, in_words(found))


def of_base(config: Config) -> Config:
    """The configuration of a run with the commit rule of its base, which has no head."""
    rule = config.base_rule
    if rule == config.sampler.rule:
        return config
    own = dataclasses.replace(config.sampler, rule=rule, ranking=RANKINGS[rule][0])
    return dataclasses.replace(config, sampler=own)


def refusal(config: Config) -> str | None:
    """What the code for PyTorch lacks to decode as this configuration does; None if nothing."""
    sampler, model = config.sampler, config.model
    # No published class has attention by blocks as ours; that of the family "tiny" is our own.
    by_blocks = model.family == "tiny" and model.attention_origin == "completion"
    if sampler.rule == "random":
        return "rule 'random'"
    if sampler.rule == "top_k" and sampler.schedule != "even":
        return f"schedule {sampler.schedule!r} (config.sampler.schedule)"
    if sampler.guidance:
        return f"guidance (config.sampler.guidance={sampler.guidance:g})"
    if model.attention_block and not by_blocks:
        return f"attention by blocks (config.model.attention_block={model.attention_block})"
    if sampler.cache not in ("none", "block"):  # "block" is exact, so that its code needs none
        return f"cache, and this one changes tokens (config.sampler.cache={sampler.cache!r})"
    return None


def settings(config: Config, model: str) -> dict[str, Any]:
    """The content of sampler.json.

    rule, ranking, fallback      how positions are chosen, as in `config.sampler`
    dial                         the rule's number; null if a head reads it from the prompt
    dial_name, dial_unit         what that number is
    head                         the kind of head and its sizes; null without a head
    length, block_length, max_calls, temperature    of evaluations
    mask_id, never_drawn         the mask token, and all tokens that no distribution has
    tokens                       how many there are; later rows of the weights are no tokens
    end_ids, stop_at_end, suppress_end    how texts end, see `diffusion.settings.EndOfText`
    logit_shift                  1 if position i predicts token i + 1
    attention_mask               the mask that the model's code takes: of "tokens" or of "pairs"
    attention_block              positions of a block, with attention by blocks; null without
    """
    tokenizer = tokenizers.make_tokenizer(config.tokenizer)
    ends, mask = tokenizers.end_ids(tokenizer), tokenizers.special_ids(tokenizer).mask
    own = sampler_lib.make_settings(config.decoder, config.evaluation.temperature, ends)
    kind, dial = threshold_choice.threshold_in_use(config, model=model)
    name = DIALS[own.rule.name]
    return {
        "rule": own.rule.name,
        "ranking": own.ranking,
        "fallback": own.rule.fallback,
        "dial": None if kind == "median" else dial,
        "dial_name": name,
        "dial_unit": UNITS[name],
        "head": _head_settings(config, kind),
        "length": own.length,
        "block_length": own.block_length,
        "max_calls": own.max_calls,
        "temperature": own.temperature,
        "mask_id": mask,
        "never_drawn": [mask],
        "tokens": len(tokenizer),
        "end_ids": list(own.end.ids),
        "stop_at_end": own.end.stop,
        "suppress_end": own.end.suppress,
        "logit_shift": families.logit_shift(config.model),
        "attention_mask": "pairs" if config.model.family in _PAIRS else "tokens",
        "attention_block": config.model.attention_block,
    }


def _head_settings(config: Config, kind: str) -> dict[str, Any] | None:
    """The head that gives a threshold of this kind, as `threshold_choice` names them."""
    width = config.model.width
    if kind == "median":
        sizes = {"layers": [width, config.threshold.hidden, 2], "gamma_0": config.threshold.gamma}
        return {"kind": "prompt", "features": _FEATURES["prompt"], **sizes}
    if kind == "price":
        sizes = {"hidden_width": width, "places": config.largest_block}
        sizes |= dataclasses.asdict(config.state_head)
        return {"kind": "state", "features": _FEATURES["state"], **sizes}
    return None


def _head_of(config: Config) -> str:
    return "state_head" if config.sampler.rule == "state" else "threshold"


def tensors(head: Params) -> dict[str, np.ndarray]:
    """A head's parameters by names with dots."""
    leaves = jax.tree_util.tree_leaves_with_path(head)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")  # noqa: E731
    return {name(path): np.asarray(x) for path, x in leaves}


def in_words(found: dict[str, Any]) -> str:
    """The rule and its number in a line."""
    if found["head"] is None:
        number = f"{found['dial_name']} fixed at {found['dial']:g}, for no head was trained"
    elif found["head"]["kind"] == "prompt":
        number = "gamma learned for each prompt"
    else:
        number = f"number of tokens learned for each call, price {found['dial']:g}"
    return f"rule {found['rule']}, {number}"
