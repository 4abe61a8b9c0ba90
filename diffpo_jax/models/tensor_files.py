"""Writes safetensors files."""

import os
from collections.abc import Mapping

import numpy as np
import safetensors
from safetensors.numpy import save_file

from diffpo_jax.system.errors import UserError


def save(tensors: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Writes tensors to a file that PyTorch's libraries read as well.

    Raises:
      UserError: it cannot be written, for example because no space is left.
    """
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} cannot be written: {error}.") from error
