"""What an exported model's own sampler reads: settings and a head's tensors, for PyTorch."""

import pathlib
from typing import Any

import jax
import numpy as np

from diffpo_jax.arrays.types import Params
from diffpo_jax.diffusion.settings import SamplerSettings

# The PyTorch code; not a module of this package, which never imports torch.
TEMPLATE = pathlib.Path(__file__).parent / "templates" / "generate.py.txt"


def settings(
    sampler: SamplerSettings,
    *,
    dial: float,
    gamma_0: float,
    mask_id: int,
    logit_shift: int,
    tokens: int,
    learned: bool,
    pairs_mask: bool = False,
) -> dict[str, Any]:
    """The settings that the PyTorch code reads, JSON-like.

    Args:
      dial: the rule's number, unless a threshold is learned.
      gamma_0: the start of the threshold head, nats.
      tokens: of the tokenizer; later rows of the weights belong to no token.
      pairs_mask: whether the network takes an attention mask of pairs, as Dream's code does.
    """
    end = sampler.end
    return {
        "rule": sampler.rule.name,
        "ranking": sampler.ranking,
        "fallback": sampler.rule.fallback,
        "threshold": "head" if learned else "fixed",
        "dial": dial,
        "gamma_0": gamma_0,
        "unit": "nats",
        "length": sampler.length,
        "block_length": sampler.block_length,
        "temperature": sampler.temperature,
        "max_calls": sampler.max_calls,
        "mask_id": mask_id,
        "tokens": tokens,
        "logit_shift": logit_shift,
        "pairs_mask": pairs_mask,
        "end_ids": list(end.ids),
        "stop_at_end": end.stop,
        "suppress_end": end.suppress,
    }


def tensors(head: Params) -> dict[str, np.ndarray]:
    """A head's parameters by names with dots."""
    leaves = jax.tree_util.tree_leaves_with_path(head)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")  # noqa: E731
    return {name(path): np.asarray(x) for path, x in leaves}
